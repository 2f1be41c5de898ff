// Questions to the server, and notices of what it says.
const answerOf = async (name, data) => {
  try {
    const answer = await server[name](data);
    return answer && typeof answer === 'object' && !answer.detail
      ? answer
      : { error: 'the server did not answer; try again' };
  } catch {
    return { error: 'the server cannot be reached; try again' };
  }
};

// A tab's questions, each about a view: `about(view)` is sent with them. Only the newest answer to a question
// counts, unless `all` are wanted: an older one gives null, as does an error, which `complain` is told.
const questions = (about, complain) => {
  const newest = {};
  let era = 0;
  const ask = async (name, what = {}, asked = undefined, all = false) => {
    const number = all ? 0 : (newest[name] = (newest[name] || 0) + 1),
      began = era;
    const answer = await answerOf(name, { ...about(asked), ...what });
    if (began !== era || (!all && number !== newest[name])) return null;
    if (answer.error) complain(answer.error);
    return answer.error ? null : answer;
  };
  // Answers to these questions that are still to come do not count; without names, to none.
  const forget = (...names) => {
    if (!names.length) era += 1;
    names.forEach((name) => {
      newest[name] = (newest[name] || 0) + 1;
    });
  };
  return { ask, forget };
};

const notice = (kind, message) => {
  const banner = make('div', `g-banner g-banner-${kind}`);
  if (kind === 'error') banner.setAttribute('role', 'alert');
  banner.append(make('span', 'g-banner-mark', kind === 'error' ? '!' : 'i'), make('span', '', message));
  return banner;
};
const errorsIn = (box, messages) =>
  box.replaceChildren(...messages.filter(Boolean).map((message) => notice('error', message)));
