// Draws what app/evaluate/worth.py lays out, once it is unfolded: nDCG@10 against the tokens that are written, and the gate
// between writing never and always. An interval is [low, mean, high].
const PLOT = { height: 216, left: 40, right: 22, top: 10, bottom: 42, line: 17 };
const WRITERS = {
  both: 'both write',
  queries: 'queries write, documents have theirs',
  alone: 'queries write, documents have none',
};

// A plot of nDCG@10 below a legend of [kind, words]: its first parts, and where a share of the width and a value stand.
const plotted = (width, legend, values) => {
  const low = Math.floor(Math.min(...values) * 10),
    high = Math.max(low + 1, Math.ceil(Math.max(...values) * 10)),
    top = PLOT.top + PLOT.line * legend.length,
    bottom = PLOT.height + PLOT.line * legend.length - PLOT.bottom;
  const across = (share) => PLOT.left + (width - PLOT.left - PLOT.right) * share,
    up = (value) => bottom - ((bottom - top) * (10 * value - low)) / (high - low);
  const parts = legend.flatMap(([kind, words], i) => {
    const y = PLOT.top + PLOT.line * i - 2;
    return [
      draw('line', {
        class: `g-eval-line g-eval-by-${kind}`,
        x1: PLOT.left,
        x2: PLOT.left + 18,
        y1: y,
        y2: y,
      }),
      draw('text', { class: 'g-tick', x: PLOT.left + 25, y: y + 4 }, fit(words, width - PLOT.left - 40, 6)),
    ];
  });
  for (let tenth = low; tenth <= high; tenth += high - low > 6 ? 2 : 1) {
    const y = up(tenth / 10);
    parts.push(draw('line', { class: 'g-grid', x1: PLOT.left, x2: width - PLOT.right, y1: y, y2: y }));
    parts.push(
      draw(
        'text',
        { class: 'g-tick', x: PLOT.left - 7, y: y + 4, 'text-anchor': 'end' },
        (tenth / 10).toFixed(1),
      ),
    );
  }
  return { parts, across, up, bottom, height: bottom + PLOT.bottom };
};
const under = (plot, x, words, line = 0) =>
  draw(
    'text',
    { class: 'g-tick', x, y: plot.bottom + 17 + PLOT.line * line, 'text-anchor': 'middle' },
    words,
  );
const line = (kind, points) =>
  draw('polyline', {
    class: `g-eval-line g-eval-by-${kind}`,
    points: points.map((at) => at.join()).join(' '),
  });
const dot = (plot, kind, x, [low, mean, high], words) => {
  const group = draw('g', { class: `g-eval-by-${kind}` });
  group.append(
    draw('title', {}, `${words}: ${mean.toFixed(3)}, 95 % interval ${low.toFixed(3)} to ${high.toFixed(3)}`),
    draw('line', { x1: x, x2: x, y1: plot.up(low), y2: plot.up(high) }),
    draw('circle', { cx: x, cy: plot.up(mean), r: 3.5 }),
  );
  return group;
};

const tokensFigure = ({ budgets, tokens, sides }) =>
  figure('tokens', 'nDCG@10 against the tokens that may be written', '', (svg, width) => {
    const plot = plotted(width, Object.entries(WRITERS), Object.values(sides).flat(2)),
      place = (i) => plot.across((i + 0.5) / budgets.length);
    budgets.forEach((budget, i) => {
      plot.parts.push(under(plot, place(i), budget || 'none'));
      if (budget) plot.parts.push(under(plot, place(i), `${tokens[i].toFixed(0)} written`, 1));
    });
    Object.entries(WRITERS).forEach(([side, words], j) => {
      const at = (i) => place(i) + 7 * (j - 1); // so that intervals do not hide each other
      plot.parts.push(
        line(
          side,
          sides[side].map(([, mean], i) => [at(i), plot.up(mean)]),
        ),
      );
      sides[side].forEach((interval, i) =>
        plot.parts.push(dot(plot, side, at(i), interval, `${words}, ${budgets[i] || 'no'} tokens`)),
      );
    });
    sized(svg, width, plot.height, plot.parts);
  });

const gateFigure = ({ budget, share, values, wrote, never, gated, always }) =>
  figure('gate', `Writing only where a search is unsure, at most ${budget} tokens`, '', (svg, width) => {
    const legend = [
      ['gate', 'the less sure first; the dot in between is the gate'],
      ['random', 'as many queries at random'],
    ];
    const plot = plotted(width, legend, [...values, ...never, ...gated, ...always]);
    [0, 0.25, 0.5, 0.75, 1].forEach((part) =>
      plot.parts.push(under(plot, plot.across(part), `${100 * part} %`)),
    );
    plot.parts.push(under(plot, plot.across(0.5), 'of the queries write', 1));
    plot.parts.push(
      line('random', [
        [plot.across(0), plot.up(never[1])],
        [plot.across(1), plot.up(always[1])],
      ]),
    );
    plot.parts.push(
      line(
        'gate',
        share.map((part, i) => [plot.across(part), plot.up(values[i])]),
      ),
    );
    plot.parts.push(dot(plot, 'random', plot.across(0), never, 'never'));
    plot.parts.push(dot(plot, 'random', plot.across(1), always, 'always'));
    plot.parts.push(dot(plot, 'gate', plot.across(wrote), gated, 'the gate'));
    sized(svg, width, plot.height, plot.parts);
  });

const drawCurves = (details) => {
  const box = details.querySelector('.g-eval-curves');
  if (!box.childElementCount) {
    const curves = JSON.parse(box.dataset.curves);
    box.append(tokensFigure(curves), ...(curves.gate ? [gateFigure(curves.gate)] : []));
  }
  redraw(box);
};
// toggle does not bubble
element.addEventListener(
  'toggle',
  (event) => {
    if (event.target.matches('.g-eval-worth') && event.target.open) drawCurves(event.target);
  },
  true,
);
new ResizeObserver(() => element.querySelectorAll('.g-eval-worth[open]').forEach(drawCurves)).observe(
  element,
);
