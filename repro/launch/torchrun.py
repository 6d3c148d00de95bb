"""torchrun that does not outlive the process that started it: `python -m repro.launch.torchrun ARGUMENTS`."""

import os

from repro.wire import PARENT, die_with_parent

if __name__ == "__main__":
    die_with_parent()
    os.environ[PARENT] = str(os.getpid())
    from torch.distributed.run import main

    main()
