// What if?: the sentences of text and rationale to be struck out or rewritten, and what that does to score
// and rank.
const PAUSE = 600; // milliseconds after the last key
const PARTS_OF = { text: 'Text', rationale: 'Rationale' };
// of the open document: { open, side, history of states, at, sets: sentences by source, known: answers by
// state }
let editor = null;

const startWhatIf = async (open, side) => {
  const slot = open.querySelector('#g-panel-whatif .g-slot');
  if (!slot.firstChild)
    slot.append(
      columnChoice(open, side, (value) => startWhatIf(open, value)),
      make('div', 'g-try'),
    );
  stands(open, { whatif: side });
  if (editor && editor.open === open && editor.side === side) return;
  const mine = (editor = { open, side, history: [], at: 0, sets: new Map(), known: new Map(), ticket: 0 });
  const body = slot.querySelector('.g-try');
  if (!body.firstChild)
    body.append(
      make('p', 'g-working', 'Reading the document, and once more without each of its sentences …'),
    );
  body.setAttribute('aria-busy', 'true');
  const data = await question('what_if', open, { side, source: null, effects: true });
  if (editor !== mine || !open.isConnected) return;
  body.removeAttribute('aria-busy');
  if (data.error) {
    body.replaceChildren(notice('error', data.error));
    editor = null;
    return;
  }
  mine.body = body;
  mine.sources = data.sources;
  mine.history = [unedited(mine, null, data)];
  layWhatIf(mine);
  showOutcome(mine, data);
};
const setOf = (source) => (source ? `${source.side} ${source.doc}` : '');
// The state in which nothing is edited, whosever rationale stands there.
const unedited = (mine, source, data) => {
  const state = {
    source,
    text: data.sentences.text.map(() => true),
    rationale: data.sentences.rationale.map(() => true),
  };
  mine.sets.set(setOf(source), data.sentences);
  mine.known.set(JSON.stringify(state), data);
  return state;
};
const push = (mine, state) => {
  if (JSON.stringify(state) === JSON.stringify(now(mine))) return;
  mine.history = [...mine.history.slice(0, mine.at + 1), state];
  mine.at += 1;
  refresh(mine);
};
const swapIn = async (mine, source) => {
  if (!mine.sets.has(setOf(source))) {
    mine.busy(true);
    const data = await question('what_if', mine.open, { side: mine.side, source, effects: true });
    if (editor !== mine || !mine.open.isConnected) return;
    mine.busy(false);
    if (data.error) {
      showOutcome(mine, data);
      return;
    }
    unedited(mine, source, data);
  }
  push(mine, { ...now(mine), source, rationale: mine.sets.get(setOf(source)).rationale.map(() => true) });
};

const now = (mine) => mine.history[mine.at];
const commit = (mine, part, i, value) =>
  push(mine, { ...now(mine), [part]: now(mine)[part].map((old, j) => (j === i ? value : old)) });
// Rows and buttons as the state has them, and the numbers: from memory where the same state was asked before.
const refresh = async (mine) => {
  if (mine.laid !== setOf(now(mine).source)) layWhatIf(mine);
  mine.paint();
  const state = now(mine),
    key = JSON.stringify(state),
    ticket = (mine.ticket += 1);
  if (mine.known.has(key)) {
    mine.busy(false);
    showOutcome(mine, mine.known.get(key));
    return;
  }
  mine.busy(true);
  const edits = Object.fromEntries(
    ['text', 'rationale'].map((part) => [
      part,
      state[part].every((edit) => edit === true) ? null : state[part],
    ]),
  );
  const data = await question('what_if', mine.open, { side: mine.side, source: state.source, ...edits });
  if (!data.error) mine.known.set(key, data);
  if (editor !== mine || ticket !== mine.ticket || !mine.open.isConnected) return;
  mine.busy(false);
  showOutcome(mine, data);
};

const layWhatIf = (mine) => {
  const left = make('div', 'g-edit'),
    tools = make('div', 'g-tools'),
    rows = [],
    { source } = now(mine),
    sentences = mine.sets.get(setOf(source));
  const step = (way) => {
    flush();
    const to = mine.at + way;
    if (to >= 0 && to < mine.history.length) {
      mine.at = to;
      refresh(mine);
    }
  };
  const undo = button('Undo', 'g-undo', () => step(-1)),
    redo = button('Redo', 'g-redo', () => step(1));
  const restore = button('Restore all', '', () => {
    flush();
    push(mine, { ...mine.history[0] });
  });
  tools.append(undo, redo, restore);
  if (mine.sources.length) {
    const swap = make('select', 'g-swap'),
      label = make('label', 'g-compare');
    swap.append(
      new Option('this document’s own', ''),
      ...mine.sources.map((one, i) => new Option(cut(one.label, 60), String(i))),
    );
    swap.value = source ? String(mine.sources.findIndex((one) => setOf(one) === setOf(source))) : '';
    swap.addEventListener('change', async () => {
      flush();
      const one = mine.sources[Number(swap.value)];
      await swapIn(mine, swap.value === '' ? null : { side: one.side, doc: one.doc });
      const list = mine.open.querySelector('.g-swap');
      if (list) list.focus({ preventScroll: true });
    });
    label.append(make('span', '', 'Rationale '), swap);
    tools.append(label);
  }
  left.append(tools);
  let waiting = null;
  const flush = () => {
    if (waiting) {
      clearTimeout(waiting.timer);
      const { go } = waiting;
      waiting = null;
      go();
    }
  };
  const most = largest(
    ['text', 'rationale'].flatMap((part) => sentences[part].map((one) => one.effect || 0)),
  );
  ['text', 'rationale'].forEach((part) => {
    if (!sentences[part].length) return;
    const box = make('section');
    const heading = make('div', 'g-edit-head');
    heading.append(
      make('h3', '', part === 'rationale' && source ? 'Rationale, swapped in' : PARTS_OF[part]),
      make('span', '', 'without it'),
    );
    box.append(heading);
    sentences[part].forEach((one, i) => {
      const row = make('div', 'g-sentence'),
        area = make('textarea');
      const strike = button('', 'g-strike', () => {
        flush();
        commit(mine, part, i, now(mine)[part][i] !== true);
      });
      area.rows = 1;
      area.dir = 'auto';
      area.spellcheck = false;
      area.setAttribute('aria-label', `${PARTS_OF[part]}, sentence ${i + 1}`);
      const grow = () => {
        area.style.height = 'auto';
        area.style.height = `${area.scrollHeight}px`;
      };
      area.addEventListener('input', () => {
        grow();
        if (waiting) clearTimeout(waiting.timer);
        const go = () => {
          const value = area.value;
          commit(mine, part, i, value.trim() === one.text ? true : value.trim() ? value : false);
        };
        waiting = { go, timer: setTimeout(flush, PAUSE) };
      });
      area.addEventListener('blur', flush);
      const effect = make('span', 'g-effect');
      if (one.effect !== null && one.effect !== undefined) {
        effect.textContent = signed(one.effect);
        effect.classList.add(one.effect < 0 ? 'g-effect-minus' : 'g-effect-plus');
        effect.style.setProperty('--w', ((100 * Math.abs(one.effect)) / most).toFixed(1));
        effect.title = `Without this sentence, all else unedited, the score changes by ${signed(one.effect, 6)}`;
      }
      row.append(strike, area, effect);
      rows.push({ part, i, one, row, area, strike, grow });
      box.append(row);
    });
    left.append(box);
  });
  mine.right = mine.right || make('div', 'g-outcome');
  const rewritten = columnsOf(mine.open)['ab'.indexOf(mine.side)].rationale
    ? ''
    : ' This column embeds the text alone: a rationale has no part in its score, so there is none to edit.';
  left.append(
    make(
      'p',
      'g-words',
      'Beside each sentence: what the score changes by without it, all else unedited. Numbers follow a ' +
        `strike at once and typing after a moment’s pause.${rewritten}`,
    ),
  );
  mine.paint = () => {
    const at = document.activeElement; // a button that is switched off hands the focus on
    undo.disabled = mine.at === 0;
    redo.disabled = mine.at === mine.history.length - 1;
    restore.disabled = JSON.stringify(now(mine)) === JSON.stringify(mine.history[0]);
    if ([undo, redo, restore].includes(at) && at.disabled)
      (undo.disabled ? redo : undo).focus({ preventScroll: true });
    rows.forEach(({ part, i, one, row, area, strike, grow }) => {
      const edit = now(mine)[part][i],
        text = typeof edit === 'string' ? edit : one.text;
      row.classList.toggle('g-struck', edit === false);
      row.classList.toggle('g-rewritten', typeof edit === 'string');
      area.readOnly = edit === false;
      if (area.value !== text && document.activeElement !== area) area.value = text;
      else if (area.value.trim() !== text.trim()) area.value = text;
      strike.textContent = edit === true ? '×' : '↺';
      const what = edit === false ? 'Restore' : edit === true ? 'Strike out' : 'Restore the old wording of';
      strike.setAttribute('aria-label', `${what} ${part} sentence ${i + 1}`);
      strike.title = edit === true ? 'Strike out' : 'Restore';
      grow();
    });
  };
  mine.busy = (on) => mine.right.toggleAttribute('aria-busy', on);
  mine.laid = setOf(source);
  mine.body.replaceChildren(left, mine.right);
  mine.paint();
};

const showOutcome = (mine, data) => {
  const { right } = mine;
  if (data.error) {
    right.replaceChildren(notice('error', data.error));
    return;
  }
  const change = data.score - data.old_score,
    moved = data.old_rank - data.rank;
  const big = make('p', 'g-new');
  big.setAttribute('role', 'status');
  big.append(
    make('span', 'g-quiet', 'score '),
    make('b', '', data.score.toFixed(4)),
    make('span', change < 0 ? 'g-effect-minus' : 'g-effect-plus', ` ${signed(change)}`),
  );
  const rank = make('p', 'g-new-rank');
  rank.append(
    make('span', 'g-quiet', 'rank '),
    make('b', '', moved ? `${data.old_rank} → ${data.rank}` : `${data.rank}`),
    make(
      'span',
      'g-quiet',
      ` of ${data.documents.toLocaleString('en')}${data.filtered ? ' that satisfy the filter' : ''}`,
    ),
  );
  const names = (list, count) => {
    const node = make('span');
    list.slice(0, 3).forEach((one, i) => node.append(i ? ', ' : '', make('i', '', cut(one.title, 44))));
    if (count > 3) node.append(` and ${(count - 3).toLocaleString('en')} more`);
    return node;
  };
  const who = make('p', 'g-who');
  if (moved > 0) who.append('Now above ', names(data.passed, data.passed_count), '.');
  else if (moved < 0) who.append('Now below ', names(data.passed_by, data.passed_by_count), '.');
  else who.append('No other document is passed.');
  const slope = figure('ranks', 'Ranks before and after', '', (svg, width) => paintSlope(svg, width, data));
  const foot = make('div', 'g-foot');
  foot.append(
    button('All numbers (JSON)', 'g-save-json', () => saveNumbers({ ...data, edits: now(mine) }, 'what-if')),
  );
  const words = make(
    'p',
    'g-words',
    'The model reads the edited text and rationale as they stand here; nothing new is written, and no ' +
      'other document changes. ' +
      'This is a trial, so it does show what the edit causes; but a struck-out text may be one that ' +
      'the model would never have written.',
  );
  const flags = data.text_truncated
    ? [make('p', 'g-chip g-flag', 'The text does not fit into the prompt: its end is cut.')]
    : [];
  right.replaceChildren(big, rank, ...flags, who, slope, words, foot);
  redraw(right);
};

const paintSlope = (svg, width, data) => {
  const tall = 25,
    side = Math.max(70, width * 0.39),
    rows = [];
  let y = 20,
    last = null;
  data.ranks.forEach((one) => {
    if (last !== null && one.rank !== last + 1) y += 16;
    rows.push({ ...one, y });
    y += tall;
    last = one.rank;
  });
  const parts = [
    draw('text', { class: 'g-tick', x: 0, y: 10 }, 'before'),
    draw('text', { class: 'g-tick', x: width, y: 10, 'text-anchor': 'end' }, 'after'),
  ];
  rows.slice(1).forEach((one, i) => {
    if (one.rank !== rows[i].rank + 1)
      [0, width].forEach((x) =>
        parts.push(
          draw('text', { class: 'g-tick', x, y: one.y - 10, 'text-anchor': x ? 'end' : 'start' }, '⋮'),
        ),
      );
  });
  const level = (when) => new Map(rows.map((one) => [one[when].id, one]));
  const after = level('after');
  const name = (one, when) => {
    const kind = one[when].id === data.document.id ? 'g-ink g-this' : 'g-ink',
      right = when === 'after';
    const label = fit(one[when].title, side - 34);
    const node = draw(
      'text',
      { class: kind, x: right ? width : 0, y: one.y + 14, 'text-anchor': right ? 'end' : 'start' },
      right ? `${label}  ${one.rank}` : `${one.rank}  ${label}`,
    );
    node.append(draw('title', {}, one[when].title));
    return node;
  };
  const line = (from, to, kind) =>
    draw('line', { class: kind, x1: side, x2: width - side, y1: from + 9, y2: to + 9 });
  let own = null;
  rows.forEach((one) => {
    parts.push(name(one, 'before'), name(one, 'after'));
    const to = after.get(one.before.id);
    if (one.before.id === data.document.id) own = [one, to];
    else if (to)
      parts.push(
        line(
          one.y,
          to.y,
          to.y < one.y ? 'g-slope g-slope-up' : to.y > one.y ? 'g-slope g-slope-down' : 'g-slope',
        ),
      );
  });
  if (own && own[1]) {
    parts.push(line(own[0].y, own[1].y, 'g-slope g-slope-this'));
    [
      [side, own[0]],
      [width - side, own[1]],
    ].forEach(([x, one]) => parts.push(draw('circle', { class: 'g-slope-end', cx: x, cy: one.y + 9, r: 4 })));
  }
  sized(svg, width, y + 4, parts);
};
