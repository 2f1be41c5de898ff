// The parts of a tab that asks the server by itself (Map, Reasons, Mend): its script declares `root`, the tab's element.
const part = (name) => root.querySelector(`[data-part="${name}"]`);
// What comes as HTML was escaped by app/page/html.py, which makes all the app's markup.
const fill = (box, html) => {
  box.innerHTML = html;
};

// The options of a list: values, or what they are called and which group they stand in too.
const choices = (name, options, chosen) => {
  const box = root.querySelector(`select[data-set=${name}]`),
    groups = new Map();
  box.replaceChildren();
  options.forEach((one) => {
    const { id, label, group, disabled } = typeof one === 'object' ? one : { id: one, label: String(one) };
    const option = make('option', '', label);
    Object.assign(option, { value: id, disabled: Boolean(disabled) });
    if (group && !groups.has(group)) {
      groups.set(group, make('optgroup'));
      groups.get(group).label = group;
      box.append(groups.get(group));
    }
    (group ? groups.get(group) : box).append(option);
  });
  box.value = chosen;
  box.disabled = !options.length;
};
// Splits of judged queries, with how many each has.
const splitChoices = (splits) =>
  Object.entries(splits).map(([name, count]) => ({
    id: name,
    label: `${name} · ${count.toLocaleString('en')}`,
  }));
const HOW_MANY = [
  { id: '', label: '100 at random' },
  { id: 'all', label: 'all' },
]; // judged queries

// A job of the server, asked about by `question` while it works and the tab is looked at: `show` draws it in `box`, and
// `finish` takes it once it is done, which it may be before the page first hears of it.
const jobFollower = (question, box, { show, finish }) => {
  let watching = 0;
  const follow = (job) => {
    clearTimeout(watching);
    show(job);
    if (!job || job.state !== 'working') return;
    watching = setTimeout(async () => {
      if (!there) return;
      const answer = await ask(question);
      if (answer) goOn(answer.job);
      else follow(job);
    }, 600);
  };
  const goOn = (job) => {
    if (job && job.state === 'done') finish(job);
    else follow(job);
  };
  // The tab is looked at again: a job that it followed may be done by now.
  const comeBack = async () => {
    const answer = await ask(question);
    if (answer && answer.job && (answer.job.state === 'working' || box.querySelector('.g-progress')))
      goOn(answer.job);
  };
  return { follow, goOn, comeBack };
};

// What goes on, the button that ends it, and how far it is (a share from 0 to 1).
const progressLines = (text, stop, share) => {
  const bar = make('div', 'g-progress'),
    full = make('div', 'g-progress-fill'),
    head = make('div', 'g-job-head');
  full.style.width = `${100 * share}%`;
  bar.append(full);
  stop.type = 'button';
  head.append(make('span', '', text), stop);
  return [head, bar];
};
