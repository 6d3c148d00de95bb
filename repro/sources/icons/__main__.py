"""`python -m repro.sources.icons` writes the lists of the zero-shot task by the rule.

Needed after a change of the rule or the package.
"""

from repro.sources.icons.build import make_task
from repro.sources.icons.task import write_task

if __name__ == "__main__":
    task = make_task()
    write_task(task)
    print(f"{len(task)} concepts, {sum(map(len, task.values()))} images")
