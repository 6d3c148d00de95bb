// What a link points to may lie in a closed part.
const reveal = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (!target) return;
  for (let node = target; node; node = node.parentElement) {
    if (node instanceof HTMLDetailsElement) node.open = true;
  }
  target.scrollIntoView();
  target.tabIndex = -1;  // so that the keyboard goes on from here
  target.focus({ preventScroll: true });
};
addEventListener("hashchange", reveal);
reveal();
