// What Gradio is told of a part before it is drawn may be lost: says "shown" once all `parts` are there, unless the tab was left meanwhile.
const whenDrawn = (parts, still) => {
  if (!still()) return;
  if (parts.every((part) => document.querySelector(part))) trigger('shown', {});
  else setTimeout(whenDrawn, 20, parts, still);
};
