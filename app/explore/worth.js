// Was it worth writing?: measured at a click, for one column of the opened document.
element.addEventListener('click', async (event) => {
  const button = event.target.closest('[data-worth]');
  if (!button) return;
  const open = button.closest('.g-overlay'),
    box = open.querySelector(`[data-worth-of=${button.dataset.worth}]`);
  button.disabled = true;
  box.replaceChildren(make('p', 'g-working', 'Encoding document and query again …'));
  const answer = await question('worth', open, { side: button.dataset.worth });
  button.disabled = false;
  if (!box.isConnected) return;
  if (answer.error) box.replaceChildren(notice('error', answer.error));
  else box.innerHTML = answer.html; // made by the server's own `tag`, which escapes
});
