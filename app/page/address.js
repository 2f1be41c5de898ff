// The address of the page. What each tab has in it, PARAMETERS, and LONGEST_IN_ADDRESS come from address.py.
const changeAddress = (change) => {
  const address = new URLSearchParams(location.search);
  change(address);
  const query = address.toString();
  history.replaceState(history.state, '', location.pathname + (query ? '?' + query : ''));
};

// The parameters of the address if it is that of `tab`, else none.
const viewInAddress = (tab) => {
  const address = new URLSearchParams(location.search);
  return address.get('tab') === tab
    ? Object.fromEntries(PARAMETERS[tab].map((key) => [key, address.get(key) || '']))
    : {};
};
// Writes a tab's view into the address, in the place of any other tab's but Explore's, or takes it out when the
// tab is left (`view` is null).
const putInAddress = (tab, view) => {
  if (!view && new URLSearchParams(location.search).get('tab') !== tab) return;
  const others = Object.entries(PARAMETERS).filter(([name]) => name !== 'explore');
  changeAddress((address) => {
    ['tab', ...others.flatMap(([, keys]) => keys)].forEach((key) => address.delete(key));
    if (!view) return;
    address.set('tab', tab);
    PARAMETERS[tab].forEach((key) => {
      if (view[key] && view[key].length <= LONGEST_IN_ADDRESS) address.set(key, view[key]);
    });
  });
};
