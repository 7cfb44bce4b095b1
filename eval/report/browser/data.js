// Data blocks of the page: JSON, and bytes in base64 in pieces, decoded when they are asked for.
box.json = id => JSON.parse(document.getElementById(id).textContent);

// The bytes of the pieces "ID-0", "ID-1", ... one after the other.
box.bytes = id => {
  const pieces = [];
  for (let i = 0, element; (element = document.getElementById(`${id}-${i}`)); ++i)
    pieces.push(atob(element.textContent.trim()));
  const out = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces)
    for (let i = 0; i < piece.length; ++i) out[at++] = piece.charCodeAt(i);
  return out;
};
