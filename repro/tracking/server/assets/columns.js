// Columns and curves of a first visit: what tells the runs of the study apart, and how they ended. Later choices are the
// visitor's. `shown`, from the line before, has the columns (columns.json).
(() => {
  // hardened.cjs refuses what these would ask for: deletion, notes, columns and settings of the server.
  const style = document.createElement('style');
  style.textContent = `
    #delete_runs, #add_remove_metric_columns, [test-attr=manage-config-columns-button], [test-attr=settings-button],
    .editable-empty, .editable .glyphicon-pencil { display: none !important; }
    .editable { pointer-events: none; }`;
  document.head.append(style);

  const key = 'default|RunsTable|1';
  if (localStorage.getItem(key)) return;
  const metrics = shown['metric.columns'];
  const custom = Object.fromEntries(Object.entries(shown['custom.columns']).map(([name, column]) => [name, column.config_path]));
  const order = [
    '_id', 'dataset', 'objective', 'stage', 'clean_size', 'learning_rate', 'seed', 'accuracy', 'ASR', 'variant', 'profile', 'cleaning_loss',
    'outcome', 'status', 'reason', 'duration', 'start_time', 'resumes', 'fingerprint', 'notes', 'tags',
  ];
  const widths = { _id: 60, profile: 80, stage: 85, seed: 65, accuracy: 90, ASR: 80, start_time: 190, reason: 200, notes: 200, tags: 200 };
  const label = (name) => name.replace(/^_/, '').replace(/_/g, ' ').replace(/\b[a-z]/g, (letter) => letter.toUpperCase());
  localStorage.setItem(key, JSON.stringify({
    columnOrder: order,
    columnWidths: Object.fromEntries(order.map((name) => [name, widths[name] || 105])),
    dropdownOptions: order.map((name) => ({ label: label(name), value: name, selected: true })),
    columnNameMap: { ...custom, tags: 'omniboard.tags', notes: 'omniboard.notes' },
    metricAndCustomColumns: [...Object.keys(metrics), ...Object.keys(custom)].map((name) => ({ name, value: custom[name] || name })),
  }));
  // Omniboard 2.16.1 forgets to hand the name of the database to the chart.
  localStorage.setItem('undefined|MetricsPlotView|default', JSON.stringify({
    metricNameOptions: Object.values(metrics).map((metric) => ({ value: metric.metric_name, selected: true })), plotModes: ['lines+markers', 'dashdot'], plotWidth: 900,
  }));
})();
