// The Map tab as a whole: opening it, its controls, keys, theme and size.
// A view is asked for, and shown as far as the server has it.
const load = async (asked, { keep = false } = {}) => {
  forget();
  root.dataset.busy = '';
  plotly().catch(() => {}); // meanwhile
  const first = !data,
    answer = await ask('map_open', {}, asked);
  if (!answer) {
    delete root.dataset.busy;
    return;
  }
  Object.assign(view, answer.view);
  complain(...answer.problems);
  data = answer.empty ? null : answer;
  root.classList.toggle('g-map-none', !data);
  if (!data) {
    fill(panel, answer.html);
    sync();
    delete root.dataset.busy;
    return;
  }
  data.sides.forEach((side) => {
    side.xy = Float32Array.from(decode(side.points, Uint16Array), (place) => place / 65535);
  });
  known = new Map();
  [selection, matches, star, card, hovered] = [null, null, null, null, -1];
  hidden.clear();
  glided = false;
  tool('glide').setAttribute('aria-pressed', 'false');
  tool('glide').disabled = tool('names').disabled = false;
  root.classList.toggle('g-map-one', data.one);
  tool('glide').hidden = data.one;
  tool('names').hidden = !data.sides.some(({ regions }) => regions.length);
  root.querySelector('.g-map-selection').hidden = true;
  choices('corpus', data.corpora, view.corpus);
  ['left', 'right'].forEach((side) => choices(side, data.columns, view[side]));
  choices('colour', data.colours, view.colour);
  // what was typed while the tab loaded stays
  ['star', 'find'].forEach((name) => {
    if (view[name] || !first) part(name).value = view[name];
  });
  root.querySelector('.g-map-star button').disabled = false;
  part('found').textContent = '';
  titles();
  take(data.colour);
  sync();
  const notes = data.notes.map(remark);
  if (!gl)
    notes.push(
      remark(
        data.documents > MOST_SVG
          ? `This browser has no WebGL: ${MOST_SVG.toLocaleString('en')} of ` +
              `${data.documents.toLocaleString('en')} documents are drawn, evenly spread.`
          : 'This browser has no WebGL: the maps are drawn as SVG, which is slower.',
      ),
    );
  root.querySelector('.g-map-banner').append(...notes);
  if (!keep) follow(data.job); // above the maps, so before they are drawn
  try {
    await drawMaps();
  } catch (error) {
    complain(error.message);
    return;
  } finally {
    delete root.dataset.busy;
  }
  compare();
  if (view.star) placeStar(view.star);
  if (part('find').value) find(part('find').value);
  if (view.point) open({ id: view.point }, first ? 'link' : null);
};
const take = (coded) => {
  colours = { ...coded, codes: decode(coded.codes, coded.wide ? Uint16Array : Uint8Array) };
  hidden.clear();
  drawLegend();
};
const recolour = async (colour) => {
  const answer = await ask('map_colour', {}, { ...view, colour });
  if (!answer) {
    choices('colour', data.colours, view.colour);
    return;
  }
  view.colour = colour;
  sync();
  take(answer.colour);
  drawMaps();
};

root.addEventListener('change', (event) => {
  const set = event.target.dataset && event.target.dataset.set;
  if (set === 'colour') recolour(event.target.value);
  else if (set === 'corpus') load({ corpus: event.target.value });
  else if (set) load({ ...view, zoom: '', [set]: event.target.value });
  else if (event.target.name === 'g-map-mode')
    shownCharts().forEach((chart) =>
      after(chart, () => window.Plotly.relayout(chart.gd, { dragmode: mode() })),
    );
});
root.querySelector('.g-map-star').addEventListener('submit', (event) => {
  event.preventDefault();
  if (data) placeStar(part('star').value);
});
part('star').addEventListener('input', () => {
  if (!part('star').value && view.star) placeStar('');
});
part('find').addEventListener('input', () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    if (data) find(part('find').value);
  }, 250);
});
// What is shown, for the head of a saved file.
const inWords = () => {
  const columns = data.sides.map(({ label }, i) => `${'AB'[i]}: ${label}`);
  const colour = data.colours.find(({ id }) => id === view.colour);
  const query = view.star ? [`query on the maps: ${view.star}`] : [];
  const words = view.find ? [`highlighted: ${view.find}`] : [];
  return [[...columns, ...(colour ? [`coloured by ${colour.label}`] : []), ...query, ...words].join(' · ')];
};
root.addEventListener('click', (event) => {
  const one = event.target.closest('[data-row], [data-do], [data-go], .g-close');
  if (!one || !data) return;
  if (one.classList.contains('g-close')) close();
  else if (one.dataset.row) open({ row: Number(one.dataset.row) }, one);
  else if (one.dataset.go) {
    window.graceOpener = null;
    trigger('seek', { view: { ...view }, doc: card ? card.id : '', what: one.dataset.go });
  } else if (one.dataset.do === 'whole') whole();
  else if (one.dataset.do === 'near-card')
    zoomTo(
      (chart) => [card.row, ...card.kept, ...(sideOf(chart) ? card.won : card.lost)],
      () => [],
    );
  else if (one.dataset.do === 'near-star')
    zoomTo(
      (chart) => star[sideOf(chart)].rows,
      (chart) => [star[sideOf(chart)].at],
    );
  else if (one.dataset.do === 'glide') glide();
  else if (one.dataset.do === 'names') {
    names = !names;
    one.setAttribute('aria-pressed', String(names));
    overlays();
  } else if (one.dataset.do === 'png' || one.dataset.do === 'svg') save(one.dataset.do);
  else if (one.dataset.do === 'file')
    window.graceSaveMap(view.corpus, inWords(), (line) => {
      part('saved').textContent = line;
    });
  else if (one.dataset.do === 'csv' || one.dataset.do === 'json') exportRows(one.dataset.do);
  else if (one.dataset.do === 'unstar') {
    part('star').value = '';
    placeStar('');
    part('star').focus({ preventScroll: true });
  } else if (one.dataset.do === 'clear') {
    select(null);
    root.querySelector('input[name=g-map-mode]:checked').focus({ preventScroll: true });
  }
});
const lit = (event, on) => {
  const one =
    event.target.closest && event.target.closest('.g-map-panel [data-row], .g-map-selection [data-row]');
  if (one && data) hover(on ? Number(one.dataset.row) : -1);
};
['mouseover', 'focusin'].forEach((name) => root.addEventListener(name, (event) => lit(event, true)));
['mouseout', 'focusout'].forEach((name) => root.addEventListener(name, (event) => lit(event, false)));
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || !there || event.defaultPrevented) return;
  if (card) close();
  else if (selection) select(null);
});

// Coming and going, and what may change meanwhile: the size of the page, light and dark, a link from another
// tab.
const request = () => {
  const wish = window.graceMap;
  window.graceMap = null;
  return wish;
};
let begun = false;
const arrive = () => {
  const now = element.getClientRects().length > 0;
  if (now !== there) {
    there = now;
    if (there) {
      const asked = request() || (begun ? null : viewInAddress('map'));
      begun = true;
      if (asked) load(asked);
      else {
        sync();
        look();
        if (data) comeBack();
      }
    } else sync();
  } else if (
    there &&
    data &&
    drawn().some(
      ({ size: [width, height], plot }) => plot.clientWidth !== width || plot.clientHeight !== height,
    )
  )
    look();
};
new ResizeObserver(arrive).observe(root);
let scheme = dark();
new MutationObserver(() => {
  if (dark() === scheme) return;
  scheme = dark();
  if (there && data) {
    drawLegend();
    drawMaps();
  }
}).observe(document.body, { attributes: true, attributeFilter: ['class'] });
