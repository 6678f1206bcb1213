'use strict';
const DATA = JSON.parse(document.getElementById('data').textContent);

/* The theme is the reader's system's, until the button says otherwise. Pages listen to `themechange` to draw anew. */
const isDark = () => {
  const said = document.documentElement.dataset.theme;
  return said ? said === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
};
const setTheme = theme => {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  dispatchEvent(new Event('themechange'));
};
document.getElementById('theme').addEventListener('click', () => setTheme(isDark() ? 'light' : 'dark'));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => dispatchEvent(new Event('themechange')));
/* Paper is white. */
let themeOfScreen;
addEventListener('beforeprint', () => {
  themeOfScreen = document.documentElement.dataset.theme;
  setTheme('light');
});
addEventListener('afterprint', () => setTheme(themeOfScreen));

const cssValue = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const whole = number => number.toLocaleString('en');
const plural = (count, one, many) => `${whole(count)} ${count === 1 ? one : many || one + 's'}`;
const inBytes = count => {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
  let at = 0;
  while (count >= 1024 && at < units.length - 1) {
    count /= 1024;
    at++;
  }
  return `${Number(count.toPrecision(3))} ${units[at]}`.replace(/^(\d+(?:\.\d+)?)e\+(\d+)/, (_, a, b) => String(a * 10 ** b));
};
