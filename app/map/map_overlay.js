// What lies over the points: names of regions, the star of a query, rings and lines of the opened document,
// rings of found words, and the document that is pointed at. Drawn here and not by plotly: it follows the
// pointer, and texts stay texts.
const RINGS = 5000; // found documents that get a ring
let glided = false; // map A shows where map B has the documents
let gliding = 0;

const across = (chart, x) =>
  ((x - chart.range[0]) / (chart.range[1] - chart.range[0])) * chart.plot.clientWidth;
const down = (chart, y) =>
  (1 - (y - chart.range[2]) / (chart.range[3] - chart.range[2])) * chart.plot.clientHeight;
const spot = (chart, row) => [across(chart, chart.xy[2 * row]), down(chart, chart.xy[2 * row + 1])];
const sideOf = (chart) => (charts.indexOf(chart) === 0 && !glided ? 0 : data.sides.length - 1);

const overlays = () =>
  shownCharts().forEach((chart) => {
    if (chart.xy && !gliding) overlay(chart);
  });
const overlay = (chart) => {
  const width = chart.plot.clientWidth,
    height = chart.plot.clientHeight;
  if (!width || !height) return;
  const svg = draw('svg', { width, height, viewBox: `0 0 ${width} ${height}` });
  svg.append(...cardMarks(chart), ...starMarks(chart), ...(names ? regionNames(chart, width, height) : []));
  chart.hover = draw('g', {});
  svg.append(chart.hover);
  chart.box.querySelector('.g-map-marks').replaceChildren(svg);
  foundRings(chart, width, height);
  point(chart);
};

const line = (kind, from, to) =>
  draw('line', { class: kind, x1: from[0], y1: from[1], x2: to[0], y2: to[1] });
const ring = (kind, [cx, cy], r) => draw('circle', { class: kind, cx, cy, r });
const cardMarks = (chart) => {
  if (!card) return [];
  const at = spot(chart, card.row),
    side = sideOf(chart),
    marks = [];
  const groups = [
    ['kept', card.kept, true],
    ['lost', card.lost, side === 0],
    ['won', card.won, side === 1],
  ];
  groups.forEach(([kind, rows, lined]) => {
    if (lined) rows.forEach((row) => marks.push(line(`g-link g-link-${kind}`, at, spot(chart, row))));
  });
  const r = size(data.documents) / 2 + 1.8;
  groups.forEach(([kind, rows]) =>
    rows.forEach((row) => marks.push(ring(`g-ring-${kind}`, spot(chart, row), r))),
  );
  return [...marks, ring('g-ring-open', at, 8.5)];
};
const starMarks = (chart) => {
  if (!star) return [];
  const {
      at: [x, y],
      rows,
    } = star[sideOf(chart)],
    at = [across(chart, x), down(chart, y)];
  const points = Array.from({ length: 10 }, (_, i) => {
    const angle = (Math.PI * i) / 5 - Math.PI / 2,
      r = i % 2 ? 4.6 : 11;
    return `${(at[0] + r * Math.cos(angle)).toFixed(1)},${(at[1] + r * Math.sin(angle)).toFixed(1)}`;
  });
  return [
    ...rows.map((row) => line('g-ray', at, spot(chart, row))),
    ...rows.map((row) => ring('g-ring-star', spot(chart, row), size(data.documents) / 2 + 1.8)),
    draw('polygon', { class: 'g-star', points: points.join(' ') }),
  ];
};

// Large regions first; a name that would lie on another is left out until there is room.
const regionNames = (chart, width, height) => {
  const taken = [],
    labels = [];
  [...data.sides[sideOf(chart)].regions]
    .sort((a, b) => b.size - a.size)
    .forEach(({ name, at, size: members }) => {
      if (!members) return;
      const x = across(chart, at[0]),
        y = down(chart, at[1]) - size(data.documents) / 2 - 5,
        half = name.length * 3.45 + 4;
      if (x < 0 || x > width || y < 12 || y > height - 6) return;
      const middle = Math.max(half, Math.min(width - half, x)),
        box = [middle - half, middle + half, y - 13, y + 5];
      if (
        half * 2 > width ||
        taken.some(
          (other) => box[0] < other[1] && other[0] < box[1] && box[2] < other[3] && other[2] < box[3],
        )
      )
        return;
      taken.push(box);
      labels.push(draw('text', { class: 'g-map-name', x: middle, y, 'text-anchor': 'middle' }, name));
    });
  return labels;
};

const paper = (chart, width, height) => {
  const layer = chart.box.querySelector('canvas.g-map-layer'),
    sharp = window.devicePixelRatio || 1;
  [layer.width, layer.height] = [width * sharp, height * sharp];
  const pen = layer.getContext('2d');
  pen.scale(sharp, sharp);
  return pen;
};
const foundRings = (chart, width, height) => {
  const pen = paper(chart, width, height);
  if (!matches) return;
  pen.strokeStyle = css('--ink');
  pen.lineWidth = 1.2;
  const radius = size(data.documents) / 2 + 2.5;
  matches.slice(0, RINGS).forEach((row) => {
    const [x, y] = spot(chart, row);
    pen.beginPath();
    pen.arc(x, y, radius, 0, 7);
    pen.stroke();
  });
};

// The document that is pointed at, in both maps, with its title and the beginning of what each column has
// read of it.
const point = (chart) => {
  const tip = chart.box.querySelector('.g-map-tip');
  if (!chart.hover) return;
  chart.hover.replaceChildren();
  tip.hidden = true;
  if (hovered < 0 || !chart.xy) return;
  const [x, y] = spot(chart, hovered),
    hint = known.get(hovered);
  chart.hover.append(ring('g-ring-hover', [x, y], 8), ring('g-ring-dot', [x, y], 3));
  if (!hint || x < 0 || y < 0 || x > chart.plot.clientWidth || y > chart.plot.clientHeight) return;
  tip.replaceChildren(
    make('b', '', hint.title),
    make('p', '', hint.begin[sideOf(chart)]),
    make('p', 'g-quiet', hint.note),
  );
  tip.hidden = false;
  const { offsetWidth: w, offsetHeight: h } = tip,
    { clientWidth: width, clientHeight: height } = chart.plot;
  tip.style.left = `${Math.max(4, Math.min(width - w - 4, x + 14 + w > width ? x - 14 - w : x + 14))}px`;
  tip.style.top = `${Math.max(4, Math.min(height - h - 4, y + 12))}px`;
};
const hover = async (row) => {
  if (row === hovered || gliding) return;
  hovered = row;
  shownCharts().forEach(point);
  root
    .querySelectorAll('[data-row]')
    .forEach((one) => one.classList.toggle('g-lit', row >= 0 && one.dataset.row === String(row)));
  if (row < 0 || known.has(row)) return;
  await about(row);
  if (hovered === row) shownCharts().forEach(point);
};

// Gliding: plotly's points are hidden while they move on a canvas, which does a hundred thousand at a time,
// and are set once they arrive.
const glide = async () => {
  if (!data || data.one || gliding) return;
  const chart = charts[0],
    from = chart.xy,
    to = data.sides[glided ? 0 : 1].xy;
  glided = !glided;
  tool('glide').setAttribute('aria-pressed', String(glided));
  titles();
  say(glided ? 'Map A shows where map B has the documents.' : 'Map A shows its own places.');
  if (!matchMedia('(prefers-reduced-motion: reduce)').matches) await fly(chart, from, to);
  drawMaps();
};
const fly = (chart, from, to) =>
  new Promise((resolve) => {
    const width = chart.plot.clientWidth,
      height = chart.plot.clientHeight,
      began = performance.now(),
      lasting = 1400;
    const is = emphasised() && new Set(emphasised()),
      r = size(data.documents) / 2,
      round = data.documents < 5000;
    const shades = chart.groups
      .filter(({ code }) => !hidden.has(code))
      .map((group) => ({
        rows: group.rows,
        colour: group.tone >= 0 && !colours.labels ? null : toneColour(group.tone),
      }));
    const scale = ramp(),
      shade = (code) => scale[Math.min(scale.length - 1, Math.floor((code / 255) * scale.length))];
    chart.box.querySelector('.g-map-marks').replaceChildren();
    chart.gd.style.visibility = 'hidden';
    const frame = (now) => {
      const t = Math.min(1, (now - began) / lasting),
        s = t * t * (3 - 2 * t),
        pen = paper(chart, width, height);
      shades.forEach(({ rows, colour }) =>
        rows.forEach((row) => {
          pen.globalAlpha = !is || is.has(row) ? 0.85 : 0.09;
          pen.fillStyle = colour || shade(colours.codes[row]);
          const x = across(chart, from[2 * row] + s * (to[2 * row] - from[2 * row])),
            y = down(chart, from[2 * row + 1] + s * (to[2 * row + 1] - from[2 * row + 1]));
          if (round) {
            pen.beginPath();
            pen.arc(x, y, r, 0, 7);
            pen.fill();
          } else pen.fillRect(x - r, y - r, 2 * r, 2 * r);
        }),
      );
      if (t < 1) {
        gliding = requestAnimationFrame(frame);
        return;
      }
      gliding = 0;
      paper(chart, width, height);
      chart.gd.style.visibility = '';
      resolve();
    };
    gliding = requestAnimationFrame(frame);
  });

// Saving: one figure with both maps, their legend, names and star. plotly reads some markup in texts, so it
// gets them escaped.
const plain = (text) => text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
const picture = () => {
  const drawnCharts = shownCharts(),
    type = gl && data.documents > MOST_SVG ? 'scattergl' : 'scatter';
  const layout = {
    width: drawnCharts.length * 640 + 290,
    height: 700,
    margin: { l: 70, r: 20, t: 60, b: 20 },
    paper_bgcolor: css('--paper'),
    plot_bgcolor: css('--paper'),
    font: { family: 'system-ui, sans-serif', color: css('--ink'), size: 12 },
    showlegend: !!colours.labels && colours.labels.length > 1,
    annotations: [],
    legend: { itemsizing: 'constant', title: { text: plain(colours.title) }, x: 1.01 },
  };
  const traces = drawnCharts.flatMap((chart, i) => {
    const axis = i ? String(i + 1) : '',
      from = i / drawnCharts.length,
      to = (i + 1) / drawnCharts.length - 0.01;
    const [x0, x1, y0, y1] = chart.range;
    layout[`xaxis${axis}`] = { visible: false, domain: [from, to], range: [x0, x1], anchor: `y${axis}` };
    layout[`yaxis${axis}`] = { visible: false, range: [y0, y1], scaleanchor: `x${axis}`, anchor: `x${axis}` };
    const side = data.sides[sideOf(chart)],
      note = (text, more) => layout.annotations.push({ text: plain(text), showarrow: false, ...more });
    note(`${'AB'[i]} · ${side.label}`, {
      xref: 'paper',
      yref: 'paper',
      x: from,
      y: 1.06,
      font: { size: 15 },
    });
    if (names)
      chart.box.querySelectorAll('.g-map-name').forEach((one) => {
        const region = side.regions.find(({ name }) => name === one.textContent);
        if (region)
          note(region.name, {
            xref: `x${axis}`,
            yref: `y${axis}`,
            x: region.at[0],
            y: region.at[1],
            yshift: 11,
            font: { size: 11 },
          });
      });
    const kinds = chart.groups.map((group) => ({
      ...traceOf(group, chart.xy, type),
      xaxis: `x${axis}`,
      yaxis: `y${axis}`,
      showlegend: i === 0,
      name: plain(
        colours.labels && group.code < colours.labels.length
          ? colours.labels[group.code]
          : colours.labels
            ? 'none'
            : colours.title,
      ),
    }));
    if (!colours.labels && kinds.length && i === drawnCharts.length - 1) {
      const bar = kinds.find(({ marker }) => marker.colorscale);
      const value = (code) =>
        Number((colours.low + (code / 254) * (colours.high - colours.low)).toPrecision(4));
      if (bar)
        Object.assign(bar.marker, {
          showscale: true,
          colorbar: {
            title: { text: plain(`${colours.title} (${colours.note || 'value'})`) },
            tickvals: [0, 127, 254],
            ticktext: [0, 127, 254].map((code) => String(value(code))),
          },
        });
    }
    if (star) {
      const { at, rows } = star[sideOf(chart)];
      const rays = rows.flatMap((row) => [at, [chart.xy[2 * row], chart.xy[2 * row + 1]], [null, null]]);
      kinds.push({
        type: 'scatter',
        mode: 'lines',
        x: rays.map(([x]) => x),
        y: rays.map(([, y]) => y),
        line: { color: css('--ink'), width: 1 },
        showlegend: false,
        xaxis: `x${axis}`,
        yaxis: `y${axis}`,
      });
      kinds.push({
        type: 'scatter',
        mode: 'markers',
        x: [at[0]],
        y: [at[1]],
        marker: { symbol: 'star', size: 17, color: css('--star'), line: { color: css('--ink'), width: 1 } },
        name: plain(view.star.slice(0, 60)),
        showlegend: false,
        xaxis: `x${axis}`,
        yaxis: `y${axis}`,
      });
    }
    return kinds;
  });
  return { data: traces, layout };
};
const save = async (format) => {
  if (!data || !window.Plotly) return;
  const { data: traces, layout } = picture();
  try {
    await window.Plotly.downloadImage(
      { data: traces, layout },
      {
        format,
        width: layout.width,
        height: layout.height,
        scale: format === 'png' ? 2 : 1,
        filename: `grace-map-${view.corpus}`,
      },
    );
  } catch {
    complain('the image could not be made: try the other format');
  }
};
