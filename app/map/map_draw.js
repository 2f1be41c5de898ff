// Drawing the points of both maps with plotly: a trace for every colour, so that a colour can be switched
// off; zooming and moving together.
const TONES = 20;
const MOST_SVG = 5000; // points that are drawn where there is no WebGL
const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
const dark = () => document.body.classList.contains('dark');
const RAMPS = [
  ['#3b0f70', '#8c2981', '#de4968', '#f0803c', '#e2ab1e'],
  ['#7b6df0', '#b65fc9', '#ef6b8a', '#fb9f5f', '#fbe27a'],
];
const ramp = () => RAMPS[dark() ? 1 : 0];
const charts = SIDES.map((side) => {
  const box = root.querySelector(`[data-side=${side}]`);
  return {
    box,
    plot: box.querySelector('.g-map-plot'),
    gd: box.querySelector('.g-map-canvas'),
    groups: [],
    xy: null,
    range: null,
    size: [0, 0],
  };
});
const shownCharts = () => (data ? charts.slice(0, data.sides.length) : []);

// plotly.js comes from the server that the page came from, once the tab is shown.
let loading = null;
const plotly = () => {
  loading =
    loading ||
    new Promise((resolve, reject) => {
      if (window.Plotly) {
        resolve();
        return;
      }
      const script = make('script');
      const base = (
        (window.gradio_config && window.gradio_config.root) ||
        location.origin + location.pathname
      ).replace(/\/+$/, '');
      script.src = `${base}/gradio_api/file=${root.dataset.script.split('/').map(encodeURIComponent).join('/')}`;
      script.onload = resolve;
      script.onerror = () => {
        loading = null;
        reject(new Error('plotly.js cannot be loaded: reload the page'));
      };
      document.head.append(script);
    });
  return loading;
};
const gl = (() => {
  try {
    return !!make('canvas').getContext('webgl');
  } catch {
    return false;
  }
})();

// Rows by colour: [{ code, colour, rows }], greys first so that they lie below.
const grouped = () => {
  const n = data.documents,
    { codes } = colours,
    step = gl || n <= MOST_SVG ? 1 : n / MOST_SVG;
  const missing = colours.wide ? 65535 : 255,
    kinds = colours.labels ? colours.labels.length : 1;
  const code = (row) => (codes[row] === missing ? kinds : colours.labels ? codes[row] : 0);
  const rows =
    step === 1
      ? Uint32Array.from({ length: n }, (_, i) => i)
      : Uint32Array.from({ length: MOST_SVG }, (_, i) => Math.floor(i * step));
  const counts = new Uint32Array(kinds + 1);
  rows.forEach((row) => {
    counts[code(row)] += 1;
  });
  const groups = Array.from(counts, (count, i) => ({
    code: i,
    rows: new Uint32Array(count),
    tone: i === kinds ? -1 : colours.labels ? colours.tones[i] : 0,
  }));
  const at = new Uint32Array(kinds + 1);
  rows.forEach((row) => {
    const i = code(row);
    groups[i].rows[at[i]] = row;
    at[i] += 1;
  });
  return groups
    .filter(({ rows: some }) => some.length)
    .sort((a, b) => (a.tone < 0 ? 0 : 1) - (b.tone < 0 ? 0 : 1) || a.code - b.code);
};
const toneColour = (tone) => (tone < 0 ? css('--tone-rest') : css(`--tone-${tone % TONES}`));
const size = (n) => Math.max(2.4, Math.min(8, 10.4 - 1.6 * Math.log10(n + 1)));

const traceOf = (group, xy, type) => {
  const { rows } = group,
    x = new Float32Array(rows.length),
    y = new Float32Array(rows.length);
  rows.forEach((row, i) => {
    x[i] = xy[2 * row];
    y[i] = xy[2 * row + 1];
  });
  const marker = {
    size: size(data.documents),
    opacity: data.documents > 20000 ? 0.55 : 0.85,
    line: { width: 0 },
  };
  if (colours.labels || group.tone < 0) marker.color = toneColour(group.tone);
  else {
    const scale = ramp();
    Object.assign(marker, {
      color: Array.from(rows, (row) => colours.codes[row]),
      cmin: 0,
      cmax: 254,
      colorscale: scale.map((tone, i) => [i / (scale.length - 1), tone]),
    });
  }
  return {
    type,
    x,
    y,
    marker,
    mode: 'markers',
    hoverinfo: 'none',
    visible: !hidden.has(group.code),
    selected: { marker: { opacity: 1, size: marker.size * 1.25 } },
    unselected: { marker: { opacity: data.documents > 20000 ? 0.04 : 0.09 } },
  };
};
const layoutOf = (chart) => ({
  width: chart.plot.clientWidth,
  height: chart.plot.clientHeight,
  margin: { l: 0, r: 0, t: 0, b: 0 },
  showlegend: false,
  hovermode: 'closest',
  hoverdistance: 14,
  dragmode: mode(),
  paper_bgcolor: css('--paper'),
  plot_bgcolor: css('--paper'),
  xaxis: { visible: false, range: chart.range.slice(0, 2) },
  yaxis: { visible: false, range: chart.range.slice(2) },
  newselection: { line: { color: css('--ink'), width: 1.5, dash: 'dot' } },
});
// plotly's steps on one chart wait for one another.
const after = (chart, step) => (chart.work = (chart.work || Promise.resolve()).catch(() => {}).then(step));
const mode = () => root.querySelector('input[name=g-map-mode]:checked').value;

// The wanted part of the map, grown to the shape of the chart: both axes keep one scale.
const fitted = (chart, [left, right, bottom, top]) => {
  const per = Math.max((right - left) / chart.plot.clientWidth, (top - bottom) / chart.plot.clientHeight);
  const x = (left + right) / 2,
    y = (bottom + top) / 2,
    w = (per * chart.plot.clientWidth) / 2,
    h = (per * chart.plot.clientHeight) / 2;
  return [x - w, x + w, y - h, y + h];
};
const wholeMap = [0, 1, 0, 1];
const zoomed = () => (view.zoom ? view.zoom.split(',').map(Number) : wholeMap);

const drawMaps = async () => {
  await plotly();
  if (!data || !colours || !charts[0].plot.clientWidth) return;
  const type = gl ? 'scattergl' : 'scatter',
    groups = grouped();
  await Promise.all(
    shownCharts().map(async (chart, i) => {
      chart.groups = groups;
      chart.xy = i === 0 && glided ? data.sides[1].xy : data.sides[i].xy;
      chart.range = fitted(chart, zoomed());
      const traces = groups.map((group) => traceOf(group, chart.xy, type));
      chart.size = [chart.plot.clientWidth, chart.plot.clientHeight];
      await after(chart, () =>
        window.Plotly.react(chart.gd, traces, layoutOf(chart), {
          displayModeBar: false,
          scrollZoom: true,
          doubleClick: false,
          responsive: false,
        }),
      );
      if (!chart.bound) bind(chart);
    }),
  );
  await emphasise();
  overlays();
};

// Rows that stand out, all others faded; null: all as they are.
const emphasised = () => selection || (matches && matches.length ? matches : null);
const emphasise = async () => {
  const rows = emphasised(),
    is = rows && new Uint8Array(data.documents);
  if (rows)
    rows.forEach((row) => {
      is[row] = 1;
    });
  await Promise.all(
    shownCharts()
      .filter(({ bound }) => bound)
      .map((chart) => {
        const points = chart.groups.map((group) => {
          if (!is) return null;
          const places = [];
          group.rows.forEach((row, i) => {
            if (is[row]) places.push(i);
          });
          return places;
        });
        return after(chart, () =>
          window.Plotly.update(chart.gd, { selectedpoints: points }, { selections: [] }),
        );
      }),
  );
  overlays();
};

const bind = (chart) => {
  chart.bound = true;
  const rowOf = ({ curveNumber, pointNumber }) =>
    chart.groups[curveNumber] ? chart.groups[curveNumber].rows[pointNumber] : -1;
  chart.gd.on('plotly_hover', (event) => hover(rowOf(event.points[0])));
  chart.gd.on('plotly_unhover', () => hover(-1));
  chart.plot.addEventListener('mouseleave', () => hover(-1));
  chart.gd.on('plotly_click', (event) => {
    if (event.points.length) open({ row: rowOf(event.points[0]) }, chart.plot);
  });
  chart.gd.on('plotly_selected', (event) => {
    if (!event || !(event.range || event.lassoPoints)) return;
    const rows = Uint32Array.from(event.points || [], rowOf).sort();
    select(rows.length ? rows : null);
  });
  chart.gd.on('plotly_doubleclick', () => {
    if (mode() === 'pan') whole();
    else select(null);
  });
  chart.gd.on('plotly_relayouting', (event) => moved(chart, event));
  chart.gd.on('plotly_relayout', (event) => moved(chart, event, true));
};

// One chart was moved or zoomed: the other follows, and the marks of both.
let following = false;
const moved = (chart, event, ended = false) => {
  if (
    following ||
    !event ||
    !Object.keys(event).some((key) => key.startsWith('xaxis.range') || key.startsWith('yaxis.range'))
  )
    return;
  const axis = (name) => event[`${name}.range`] || [event[`${name}.range[0]`], event[`${name}.range[1]`]];
  const [x, y] = ['xaxis', 'yaxis'].map((name, i) =>
    axis(name).every((edge) => typeof edge === 'number') ? axis(name) : chart.range.slice(2 * i, 2 * i + 2),
  );
  const range = fitted(chart, [...x, ...y]);
  shownCharts().forEach((one) => {
    one.range = one === chart ? range : fitted(one, range);
  });
  if (ended) {
    view.zoom = range.map((edge) => edge.toFixed(4)).join(',');
    sync();
  }
  const others = shownCharts().filter((one) => one !== chart || ended);
  following = true;
  Promise.all(
    others.map((one) =>
      after(one, () =>
        window.Plotly.relayout(one.gd, {
          'xaxis.range': one.range.slice(0, 2),
          'yaxis.range': one.range.slice(2),
        }),
      ),
    ),
  ).finally(() => {
    following = false;
  });
  overlays();
};
const whole = () => {
  view.zoom = '';
  sync();
  look();
};
// The part that holds some documents and places in both maps, with room around.
const zoomTo = (rowsOf, placesOf) => {
  const spots = shownCharts().flatMap((chart) => [
    ...rowsOf(chart).map((row) => [chart.xy[2 * row], chart.xy[2 * row + 1]]),
    ...placesOf(chart),
  ]);
  const [left, bottom] = [0, 1].map((i) => Math.min(...spots.map((at) => at[i]))),
    [right, top] = [0, 1].map((i) => Math.max(...spots.map((at) => at[i])));
  const room = 0.15 * Math.max(right - left, top - bottom, 0.005);
  view.zoom = [left - room, right + room, bottom - room, top + room].map((edge) => edge.toFixed(4)).join(',');
  sync();
  look();
};
const drawn = () => shownCharts().filter(({ bound, plot }) => bound && plot.clientWidth && plot.clientHeight);
const look = async () => {
  // as view.zoom says
  following = true;
  await Promise.all(
    drawn().map((chart) => {
      chart.range = fitted(chart, zoomed());
      const { width, height, xaxis, yaxis } = layoutOf(chart);
      chart.size = [width, height];
      return after(chart, () =>
        window.Plotly.relayout(chart.gd, {
          width,
          height,
          'xaxis.range': xaxis.range,
          'yaxis.range': yaxis.range,
          dragmode: mode(),
        }),
      );
    }),
  ).finally(() => {
    following = false;
  });
  overlays();
};
