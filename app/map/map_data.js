// The Map tab's state, and asking the server. Rows are the numbers of documents; points are places in a
// square from 0 to 1.
const SIDES = ['left', 'right'];
const root = element.querySelector('.g-map');
const tool = (name) => root.querySelector(`[data-do="${name}"]`);

const view = {}; // what is shown, as the address holds it
let data = null; // what the server told of both columns: { documents, one, sides: [{ xy, regions, … }], … }
let colours = null; // the colour of every document: { codes, labels | low, high, … }
let selection = null; // rows that were lassoed, ascending; null: none
let matches = null; // rows that hold the words that are looked for
let star = null; // the placed query, for each side { at, rows, scores, titles }
let card = null; // the opened document { row, kept, lost, won }
let hovered = -1;
let names = true;
const hidden = new Set(); // codes switched off in the legend

const decode = (text, Kind) => {
  const raw = atob(text),
    bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) bytes[i] = raw.charCodeAt(i);
  return new Kind(bytes.buffer);
};
const encode = (rows) => {
  const bytes = new Uint8Array(Uint32Array.from(rows).buffer),
    parts = [];
  for (let i = 0; i < bytes.length; i += 8192)
    parts.push(String.fromCharCode(...bytes.subarray(i, i + 8192)));
  return btoa(parts.join(''));
};

const remark = (message) => notice('info', message);
const complain = (...messages) => errorsIn(root.querySelector('.g-map-banner'), messages);
const { ask, forget } = questions(
  (asked = view) => ({ view: asked, documents: data ? data.documents : 0 }),
  complain,
);
const say = (text) => {
  part('spoken').textContent = text;
};

// Titles and first words of documents, asked for as they are pointed at.
let known = new Map();
let wanted = null;
const about = async (row) => {
  if (known.has(row)) return known.get(row);
  if (wanted) {
    wanted.rows.add(row);
  } else {
    const batch = (wanted = { rows: new Set([row]) });
    batch.answer = new Promise((resolve) => {
      setTimeout(resolve, 30);
    }).then(async () => {
      wanted = null;
      const store = known,
        answer = await ask('map_titles', { rows: [...batch.rows].slice(0, 200) }, undefined, true);
      (answer ? answer.documents : []).forEach((one) => store.set(one.row, one));
    });
  }
  await wanted.answer;
  return known.get(row) || null;
};

// The address, while the tab is there.
let there = false;
const sync = () => {
  if (!there || data) putInAddress('map', there ? view : null);
};
