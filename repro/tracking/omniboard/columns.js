// Columns of a first visit: what tells the runs of the study apart, and how they ended. Later choices are the visitor's.
(() => {
  const key = 'default|RunsTable|1';
  if (localStorage.getItem(key)) return;
  const custom = {
    profile: 'config.profile', stage: 'config.stage', dataset: 'config.dataset', objective: 'config.pretrain_objective',
    clean_size: 'config.clean_size', cleaning_loss: 'config.loss', learning_rate: 'config.learning_rate', seed: 'config.seed',
    variant: 'config.variant', outcome: 'result.status',
  };
  const order = [
    '_id', 'profile', 'stage', 'dataset', 'objective', 'clean_size', 'cleaning_loss', 'learning_rate', 'seed', 'accuracy', 'ASR',
    'outcome', 'status', 'duration', 'start_time', 'variant', 'notes', 'tags',
  ];
  const widths = { _id: 60, start_time: 170, notes: 200, tags: 200 };
  const label = (name) => name.replace(/^_/, '').replace(/_/g, ' ').replace(/\b[a-z]/g, (letter) => letter.toUpperCase());
  localStorage.setItem(key, JSON.stringify({
    columnOrder: order,
    columnWidths: Object.fromEntries(order.map((name) => [name, widths[name] || 110])),
    dropdownOptions: order.map((name) => ({ label: label(name), value: name, selected: true })),
    columnNameMap: { ...custom, tags: 'omniboard.tags', notes: 'omniboard.notes' },
    metricAndCustomColumns: ['accuracy', 'ASR', ...Object.keys(custom)].map((name) => ({ name, value: custom[name] || name })),
  }));
})();
