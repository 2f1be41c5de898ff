// The address of the page. Every tab changes its own parameters and leaves the others'.
const LONGEST = 2000; // characters of a query in the address: servers cut off longer ones
const changeAddress = (change) => {
  const address = new URLSearchParams(location.search);
  change(address);
  const query = address.toString();
  history.replaceState(history.state, '', location.pathname + (query ? '?' + query : ''));
};

// The parameters `keys` of the address if it is that of `tab`, else none.
const viewInAddress = (tab, keys) => {
  const address = new URLSearchParams(location.search);
  return address.get('tab') === tab
    ? Object.fromEntries(keys.map((key) => [key, address.get(key) || '']))
    : {};
};
// Writes a tab's view into the address, or takes it out when the tab is left (`view` is null).
const putInAddress = (tab, keys, view) => {
  if (!view && new URLSearchParams(location.search).get('tab') !== tab) return;
  changeAddress((address) => {
    ['tab', ...keys].forEach((key) => address.delete(key));
    if (!view) return;
    address.set('tab', tab);
    keys.forEach((key) => {
      if (view[key] && view[key].length <= LONGEST) address.set(key, view[key]);
    });
  });
};
