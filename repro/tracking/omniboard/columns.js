// Columns of a first visit: what tells the runs of the study apart, and how they ended. Later choices are the visitor's.
(() => {
  const key = 'default|RunsTable|1';
  if (localStorage.getItem(key)) return;
  const config = {
    profile: 'Profile', stage: 'Stage', dataset: 'Dataset', pretrain_objective: 'Pre-training', clean_size: 'Clean pairs',
    loss: 'Loss', learning_rate: 'Learning rate', seed: 'Seed', variant: 'Variant',
  };
  const columns = [
    ['_id', 'Id', 60],
    ...Object.entries(config).map(([name, label]) => [`c_${name}`, label, 120]),
    ['accuracy', 'Accuracy', 110], ['ASR', 'ASR', 110], ['epoch', 'Epoch', 80],
    ['status', 'Status', 130], ['outcome', 'Outcome', 110], ['duration', 'Duration', 100], ['start_time', 'Start Time', 170],
    ['notes', 'Notes', 200], ['tags', 'Tags', 200],
  ];
  const names = Object.fromEntries(Object.keys(config).map((name) => [`c_${name}`, `config.${name}`]));
  localStorage.setItem(key, JSON.stringify({
    columnOrder: columns.map(([value]) => value),
    columnWidths: Object.fromEntries(columns.map(([value, , width]) => [value, width])),
    dropdownOptions: columns.map(([value, label]) => ({ label, value, selected: true })),
    columnNameMap: { ...names, outcome: 'result.status', tags: 'omniboard.tags', notes: 'omniboard.notes' },
    metricAndCustomColumns: [['accuracy'], ['ASR'], ['epoch'], ['outcome', 'result.status']].map(([name, value]) => ({ name, value: value || name })),
  }));
})();
