// Files for the reader to keep: any picture as SVG or PNG that looks the same outside this page.
const keptStyles = ['fill', 'fill-opacity', 'stroke', 'stroke-width', 'stroke-opacity', 'stroke-dasharray', 'opacity',
  'font-family', 'font-size', 'font-weight', 'text-anchor', 'dominant-baseline', 'image-rendering', 'visibility'];

box.saveFile = (name, content, type) => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], {type}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

// The SVG that find() gives as a document of its own, in light colours: styles become attributes, since variables and
// classes mean nothing to Inkscape or LaTeX; what only serves the pointer goes. It is looked for when the page is light,
// which may draw it anew.
box.svgText = find => box.inLight(() => {
  const svg = find(), copy = svg.cloneNode(true);
  const originals = [svg, ...svg.querySelectorAll('*')], copies = [copy, ...copy.querySelectorAll('*')];
  originals.forEach((original, i) => {
    const style = getComputedStyle(original);
    for (const name of keptStyles) copies[i].setAttribute(name, style.getPropertyValue(name));
    copies[i].removeAttribute('class');
    copies[i].removeAttribute('style');
    copies[i].removeAttribute('tabindex');
  });
  originals.forEach((original, i) => { if (original.matches('.hit, .cursor')) copies[i].remove(); });
  const view = svg.viewBox.baseVal, width = view.width || svg.clientWidth, height = view.height || svg.clientHeight;
  copy.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  copy.setAttribute('viewBox', `${view.x} ${view.y} ${width} ${height}`);
  copy.setAttribute('width', width);
  copy.setAttribute('height', height);
  const back = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
  for (const [name, value] of Object.entries({x: view.x, y: view.y, width, height, fill: '#ffffff'}))
    back.setAttribute(name, value);
  copy.insertBefore(back, copy.firstChild);
  return new XMLSerializer().serializeToString(copy);
});

// Three pixels for each unit of the picture.
box.savePng = (name, find) => {
  const text = box.svgText(find), image = new Image();
  image.onload = () => {
    const canvas = document.createElement('canvas');
    canvas.width = 3 * image.width;
    canvas.height = 3 * image.height;
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob(blob => box.saveFile(name, blob));
  };
  image.src = 'data:image/svg+xml;charset=utf-8,' + encodeURIComponent(text);
};
