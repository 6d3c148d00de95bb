// Columns and charts of a first visit: what tells the runs of the study apart, and how they ended. Later choices are the
// visitor's. `shown`, from the line before, has the columns (columns.json).
(() => {
  // hardened.cjs refuses what these would ask for: deletion, notes, columns and settings of the server.
  const style = document.createElement('style');
  style.textContent = `
    #delete_runs, #add_remove_metric_columns, [test-attr=manage-config-columns-button], [test-attr=settings-button],
    .editable-empty, .editable .glyphicon-pencil { display: none !important; }
    .editable { pointer-events: none; }`;
  document.head.append(style);

  // A chart of all runs, which Omniboard lacks: final ASR of CleanCLIP over the learning rate (log), by objective of pre-training.
  const colours = { mmcl: '#0072b2', mmcl_ssl: '#d55e00' };
  const draw = async (panel) => {
    const address = `/${location.pathname.split('/')[1]}/api/v1/Runs?select=config,result&limit=100000`;
    const runs = (await (await fetch(address)).json()).filter(({ config: c, result: r }) => c && c.stage === 'clean'
      && c.loss === 'mmcl_ssl' && !c.defence && c.poisoned && colours[c.pretrain_objective]
      && Number.isFinite(c.learning_rate) && Number.isFinite(r?.attack_success_rate));
    const rates = [...new Set(runs.map((run) => run.config.learning_rate))].sort((a, b) => a - b);
    const [low, high] = [Math.log(rates[0]), Math.log(rates[rates.length - 1])];
    const x = (rate) => 60 + 400 * (high > low ? (Math.log(rate) - low) / (high - low) : 0.5);
    const y = (asr) => 260 - 240 * asr;
    // A rate close to its neighbour goes without a label.
    const labelled = rates.reduce((kept, rate) => (kept.length && x(rate) - x(kept.at(-1)) < 50 ? kept : [...kept, rate]), []);
    const text = (left, top, words, colour = '#333') => `<text x="${left}" y="${top}" fill="${colour}" text-anchor="middle">${words}</text>`;
    panel.innerHTML = `<svg width="500" height="310" font-size="12" role="img" aria-label="ASR over learning rate">
      <path d="M50 20V260H480" fill="none" stroke="#999"/>${[0, 0.5, 1].map((asr) => text(30, y(asr) + 4, asr)).join('')}
      ${labelled.map((rate) => text(x(rate), 278, rate)).join('')}${text(260, 300, 'learning rate')}
      ${text(400, 56, 'own runs: black edge')}
      ${Object.keys(colours).map((name, i) => text(400, 20 + 16 * i, name, colours[name])).join('')}
      ${runs.map(({ _id, config: c, result: r }) => `<circle cx="${x(c.learning_rate)}" cy="${y(r.attack_success_rate)}" r="4"
        fill="${colours[c.pretrain_objective]}" fill-opacity="${c.archived ? 0.3 : 1}" stroke="${c.archived ? 'none' : 'black'}"><title>${_id}: ${r.attack_success_rate.toFixed(3)}</title></circle>`).join('')}
    </svg>`;
  };
  document.addEventListener('DOMContentLoaded', () => {
    const box = document.createElement('details');
    box.id = 'asr-chart';
    box.style = 'position: fixed; right: 12px; bottom: 12px; z-index: 999; background: white; border: 1px solid #999; padding: 6px';
    box.innerHTML = '<summary>ASR over learning rate</summary><div></div>';
    box.addEventListener('toggle', () => box.open && draw(box.lastChild));
    document.body.append(box);
    box.open = true;
  });
  const key = 'default|RunsTable|1';
  if (localStorage.getItem(key)) return;
  const metrics = shown['metric.columns'];
  const custom = Object.fromEntries(Object.entries(shown['custom.columns']).map(([name, column]) => [name, column.config_path]));
  const order = [
    '_id', 'accuracy', 'ASR', 'learning_rate', 'objective', 'seed', 'archived', 'profile', 'stage', 'dataset', 'clean_size', 'cleaning_loss', 'outcome',
    'status', 'reason', 'duration', 'start_time', 'resumes', 'variant', 'fingerprint', 'notes', 'tags',
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
