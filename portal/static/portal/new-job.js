// The form of a new job: files that are dropped or chosen become text, advice can be taken with a click, and the
// look at the script opens in a dialog. The estimate itself is htmx's work.
(() => {
  'use strict';

  const form = document.getElementById('job-form');
  if (!form) return;
  const words = document.getElementById('file-words').dataset;
  const LARGEST_BYTES = 2 ** 20;

  const changed = (input) => input.dispatchEvent(new Event('input', { bubbles: true }));

  // Files ---------------------------------------------------------------------------------------------------------

  const say = (area, text) => {
    area.setCustomValidity(text);
    Portal.announce(text);
    let note = area.parentElement.querySelector('.file-note');
    if (!note) {
      note = document.createElement('p');
      note.className = 'file-note field-error';
      area.after(note);
    }
    note.textContent = text;
    note.hidden = !text;
  };

  async function readInto(area, file) {
    if (file.size > LARGEST_BYTES) { say(area, words.tooLarge); return false; }
    try {
      area.value = new TextDecoder('utf-8', { fatal: true }).decode(await file.arrayBuffer());
    } catch {
      say(area, words.notText);
      return false;
    }
    say(area, '');
    changed(area);
    return true;
  }

  for (const area of form.querySelectorAll('[data-drop-text]')) {
    const chooser = form.elements[area.dataset.dropText];
    chooser.addEventListener('change', async () => {
      const [file] = chooser.files;
      // The text stands in the area now, where it can be read and changed; the file need not travel as well.
      if (file && await readInto(area, file)) chooser.value = '';
    });
    area.addEventListener('dragover', (event) => { event.preventDefault(); area.classList.add('is-drop-target'); });
    area.addEventListener('dragleave', () => area.classList.remove('is-drop-target'));
    area.addEventListener('drop', (event) => {
      area.classList.remove('is-drop-target');
      const [file] = event.dataTransfer.files;
      if (!file) return;
      event.preventDefault();
      readInto(area, file);
    });
  }

  // Advice --------------------------------------------------------------------------------------------------------

  const setField = (name, value) => {
    const field = form.elements[name];
    if (!field) return;
    if (field instanceof RadioNodeList) field.value = value;
    else if (field.type === 'checkbox') field.checked = value === 'True';
    else field.value = value;
  };

  document.addEventListener('click', (event) => {
    const button = event.target.closest('[data-apply]');
    if (!button) return;
    for (const { name, value } of button.attributes) {
      if (name.startsWith('data-set-')) setField(name.slice('data-set-'.length), value);
    }
    changed(form.elements.nodes);
  });

  // Precisions ----------------------------------------------------------------------------------------------------

  // Only those that the chosen partition's accelerators have; what is chosen stays, and the estimate says why not.
  const offerPrecisions = () => {
    const chosen = form.querySelector('[name="partition"]:checked');
    const known = chosen ? chosen.dataset.precisions.split(' ').filter(Boolean) : [];
    for (const option of form.elements.precision.options) {
      option.hidden = known.length > 0 && option.value !== '' && !option.selected && !known.includes(option.value);
      option.disabled = option.hidden;
    }
  };
  form.addEventListener('input', offerPrecisions);
  offerPrecisions();

  // The script ----------------------------------------------------------------------------------------------------

  document.addEventListener('htmx:afterSwap', (event) => {
    if (event.target.id === 'script-preview') document.getElementById('script-dialog').showModal();
  });
})();
