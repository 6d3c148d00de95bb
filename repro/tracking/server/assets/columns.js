// Columns and charts of a first visit: what tells the runs of the study apart, and how they ended. Later choices are the
// visitor's. `shown`, from the line before, has the columns, the metrics to plot, and whether changes are allowed
// (repro/tracking/server/omniboard.py).
(() => {
  // hardened.cjs refuses what these would ask for: deletion, notes, columns and settings of the server.
  if (!shown.write) {
    const style = document.createElement('style');
    style.textContent = `
      #delete_runs, #add_remove_metric_columns, [test-attr=manage-config-columns-button], [test-attr=settings-button],
      .editable-empty, .editable .glyphicon-pencil { display: none !important; }
      .editable { pointer-events: none; }`;
    document.head.append(style);
  }
  const key = 'default|RunsTable|1';
  if (localStorage.getItem(key)) return;
  const order = [
    '_id', 'profile', 'stage', 'dataset', 'objective', 'clean_size', 'cleaning_loss', 'learning_rate', 'seed', 'accuracy', 'ASR',
    'outcome', 'status', 'reason', 'duration', 'start_time', 'resumes', 'variant', 'fingerprint', 'notes', 'tags',
  ];
  const widths = { _id: 60, profile: 80, stage: 85, seed: 65, accuracy: 90, ASR: 80, start_time: 190, reason: 200, notes: 200, tags: 200 };
  const label = (name) => name.replace(/^_/, '').replace(/_/g, ' ').replace(/\b[a-z]/g, (letter) => letter.toUpperCase());
  localStorage.setItem(key, JSON.stringify({
    columnOrder: order,
    columnWidths: Object.fromEntries(order.map((name) => [name, widths[name] || 105])),
    dropdownOptions: order.map((name) => ({ label: label(name), value: name, selected: true })),
    columnNameMap: { ...shown.custom, tags: 'omniboard.tags', notes: 'omniboard.notes' },
    metricAndCustomColumns: [...shown.metrics, ...Object.keys(shown.custom)].map((name) => ({ name, value: shown.custom[name] || name })),
  }));
  // Omniboard 2.16.1 forgets to hand the name of the database to the chart.
  localStorage.setItem('undefined|MetricsPlotView|default', JSON.stringify({
    metricNameOptions: shown.plotted.map((value) => ({ value, selected: true })), plotModes: ['lines+markers', 'dashdot'], plotWidth: 900,
  }));
})();
