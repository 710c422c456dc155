// What both pages are made of.

export const NO_WEBGPU = 'This browser has no WebGPU here. It is there on secure pages (https, or localhost) of recent browsers.';

export const $ = (id) => document.getElementById(id);

export function element(name, text = '', attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export function say(problem) {
  $('problem').textContent = problem;
  $('problem').hidden = false;
  $('status').textContent = 'Nothing runs.';
}
