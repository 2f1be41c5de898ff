// Two models, or a model and its text alone, compared by reasons: which ones, over which judged queries, and what the
// server knows of it. Runs in the scope of reasons.js.
const versus = root.querySelector('.g-reasons-comparison');

const offerComparisons = () => {
  const others = data.models.filter((model) => model !== view.model);
  choices(
    'against',
    [
      { id: '', label: 'nothing' },
      { id: `${view.model}:text`, label: `${view.model}, its text alone` },
      ...others,
    ],
    view.against,
  );
  const splits = splitChoices(data.splits);
  choices('judged', splits, view.judged || (splits.length ? splits[0].id : ''));
  choices('queries', HOW_MANY, view.queries);
  ['judged', 'queries'].forEach((name) => {
    root.querySelector(`select[data-set=${name}]`).disabled = !view.against || !splits.length;
  });
};

const compare = async () => {
  offerComparisons();
  versus.hidden = !view.against;
  if (!view.against) {
    forget('reasons_compare');
    fill(part('comparison'), '');
    return;
  }
  versus.dataset.busy = '';
  const answer = await ask('reasons_compare');
  delete versus.dataset.busy;
  if (!answer) return;
  fill(part('comparison'), answer.html);
  versus.querySelector('[data-do=compare]').hidden = !answer.offer;
};

root.addEventListener('change', (event) => {
  const { set } = event.target.dataset;
  if (!data || !['against', 'judged', 'queries'].includes(set)) return;
  view[set] = event.target.value;
  if (set === 'against') {
    view.judged = view.against && root.querySelector('select[data-set=judged]').value;
    if (!view.against) view.queries = '';
  }
  complain();
  sync();
  compare();
});
root.addEventListener('click', async (event) => {
  const one = event.target.closest('[data-do=compare], [data-query]');
  if (!one) return;
  if (one.dataset.do) {
    complain();
    const answer = await ask('reasons_make_comparison');
    if (answer) goOn(answer.job);
  } else {
    window.graceOpener = null;
    trigger('seek', { view: { ...view }, query: one.dataset.query });
  }
});
