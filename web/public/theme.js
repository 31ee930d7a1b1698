// The chosen theme, before the first paint. Nothing chosen: what the system says.
try {
  const theme = localStorage.getItem('millhand.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be off.
}
