// What Gradio is told of a part before it is drawn may be lost: tells `event` once all `parts` are there, if
// that is still wanted by then.
const whenDrawn = (parts, still, event = 'shown') => {
  if (!still()) return;
  if (parts.every((part) => document.querySelector(part)))
    setTimeout(() => {
      if (still()) trigger(event, {});
    }, 0);
  else setTimeout(whenDrawn, 20, parts, still, event);
};

// Tells `changed` whether the element is in sight, each time that it comes or goes.
const inSight = (changed) => {
  let there = false;
  new ResizeObserver(() => {
    const now = element.getClientRects().length > 0;
    if (now === there) return;
    there = now;
    changed(there);
  }).observe(element);
};
