// Numbers as the server sends them: base64 in JSON, safetensors files, and what half floats mean.

const kinds = {
  U8: Uint8Array,
  I8: Int8Array,
  U16: Uint16Array,
  I16: Int16Array,
  U32: Uint32Array,
  I32: Int32Array,
  F32: Float32Array,
  F64: Float64Array,
  I64: BigInt64Array,
  U64: BigUint64Array,
};

/** Bits of an IEEE half to a number. @param {number} bits */
export function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/**
 * Little-endian bytes as a typed array of a dtype's name; F16 and BF16 become F32, I64 stays exact numbers where it
 * can.
 * @param {Uint8Array} bytes @param {string} dtype
 */
export function typedArray(bytes, dtype) {
  if (dtype === 'F16' || dtype === 'BF16') {
    const halves = typedArray(bytes, 'U16'), out = new Float32Array(halves.length);
    if (dtype === 'F16') {
      for (let i = 0; i < halves.length; ++i) out[i] = halfToNumber(halves[i]);
    } else {
      const words = new Uint32Array(out.buffer);
      for (let i = 0; i < halves.length; ++i) words[i] = halves[i] << 16;
    }
    return out;
  }
  const Kind = kinds[dtype];
  if (!Kind) throw new Error(`expected a dtype of safetensors, found ${dtype}`);
  const size = Kind.BYTES_PER_ELEMENT;
  if (bytes.byteLength % size)
    throw new Error(`${dtype}: expected a multiple of ${size} bytes, found ${bytes.byteLength}`);
  const aligned = bytes.byteOffset % size === 0;
  const from = aligned ? bytes : bytes.slice();
  return new Kind(from.buffer, from.byteOffset, from.byteLength / size);
}

/** @param {string} text */
export function bytesOfBase64(text) {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; ++i) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** @param {Uint8Array} bytes */
export function base64OfBytes(bytes) {
  let binary = '';
  for (let i = 0; i < bytes.length; i += 8192) binary += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(binary);
}

/**
 * An array of a response: {dtype, shape, data} with base64 or nested lists.
 * @returns {{shape: number[], values: ArrayLike<number>}}
 */
export function arrayOfResponse({dtype, shape, data}) {
  const count = shape.reduce((a, b) => a * b, 1);
  const values =
    typeof data === 'string' ? typedArray(bytesOfBase64(data), dtype) : Float64Array.from(data.flat(Infinity));
  if (values.length !== count) throw new Error(`shape [${shape}]: expected ${count} values, found ${values.length}`);
  return {shape, values};
}

/**
 * A safetensors file: what each tensor is, and `tensor(name)` to read one.
 * @param {Uint8Array} bytes
 */
export function readSafetensors(bytes) {
  const bad = what => new Error(`safetensors: ${what}`);
  if (bytes.byteLength < 8) throw bad(`expected at least 8 bytes, found ${bytes.byteLength}`);
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true));
  if (length > bytes.byteLength - 8) throw bad(`expected a header of ${length} bytes, found ${bytes.byteLength - 8}`);
  const header = JSON.parse(new TextDecoder('utf-8', {fatal: true}).decode(bytes.subarray(8, 8 + length)));
  const {__metadata__: metadata = {}, ...tensors} = header;
  const tensor = name => {
    const entry = tensors[name];
    if (!entry) throw bad(`expected a tensor ${name}, found ${Object.keys(tensors).join(', ')}`);
    const [begin, end] = entry.data_offsets, start = 8 + length;
    if (!(begin >= 0 && begin <= end && start + end <= bytes.byteLength))
      throw bad(`${name}: expected offsets inside the file, found [${begin}, ${end}]`);
    const values = typedArray(bytes.subarray(start + begin, start + end), entry.dtype);
    const count = entry.shape.reduce((a, b) => a * b, 1);
    if (values.length !== count) throw bad(`${name}: expected ${count} values, found ${values.length}`);
    return {shape: entry.shape, values};
  };
  return {metadata, tensors, tensor};
}
