// The loops of kernels.c: in WebAssembly where the browser lets them, else the same in JavaScript.
// Pointers are byte offsets into one memory, whoever reads it.

const PANEL = 32; // columns of a matrix that lie together

// A half as a float: sign, exponent of bias 15, ten bits of fraction.
export function fromHalf(code) {
  const exponent = (code >> 10) & 31;
  const part = code & 1023;
  const size = exponent ? (1 + part / 1024) * 2 ** (exponent - 15) : part * 2 ** -24;
  return code & 0x8000 ? -size : size;
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

export function plainKernels(size) {
  const memory = { buffer: new ArrayBuffer(size) };
  const float = new Float32Array(memory.buffer);
  const unpack = (codes, value) => (to, code, factor, rows, columns, stride) => {
    const from = new codes(memory.buffer, code);
    for (let m = 0; m < columns; m++) {
      const by = float[factor / 4 + m];
      const first = to / 4 + Math.floor(m / PANEL) * rows * PANEL + (m % PANEL);
      for (let k = 0; k < rows; k++) float[first + k * PANEL] = value(from[k * stride + m]) * by;
    }
  };
  const halves = Float32Array.from({ length: 65536 }, (_, code) => fromHalf(code));

  // Eight columns at a time: as many sums as stay in registers.
  function product(to, from, matrix, rows, panels) {
    const x = float.subarray(from / 4, from / 4 + rows);
    for (let group = 0; group < panels * 4; group++) {
      const y = to / 4 + group * 8;
      let w = matrix / 4 + (group >> 2) * rows * PANEL + (group & 3) * 8;
      let a = float[y], b = float[y + 1], c = float[y + 2], d = float[y + 3];
      let e = float[y + 4], f = float[y + 5], g = float[y + 6], h = float[y + 7];
      for (let k = 0; k < rows; k++, w += PANEL) {
        const one = x[k];
        a += one * float[w];
        b += one * float[w + 1];
        c += one * float[w + 2];
        d += one * float[w + 3];
        e += one * float[w + 4];
        f += one * float[w + 5];
        g += one * float[w + 6];
        h += one * float[w + 7];
      }
      float.set([a, b, c, d, e, f, g, h], y);
    }
  }

  function multiply(to, a, b, count) {
    for (let n = 0; n < count; n++) float[to / 4 + n] = float[a / 4 + n] * float[b / 4 + n];
  }

  function cell(z, c, h, f, count) {
    for (let n = 0; n < count; n++) {
      const gate = (k) => float[z / 4 + k * count + n];
      const keep = sigmoid(gate(1));
      const now = keep * float[c / 4 + n] + sigmoid(gate(0)) * Math.tanh(gate(3));
      float[c / 4 + n] = now;
      float[h / 4 + n] = sigmoid(gate(2)) * Math.tanh(now);
      float[f / 4 + n] = keep;
    }
  }

  return {
    name: "plain JavaScript",
    memory,
    heap_base: () => 0,
    unpack_half: unpack(Uint16Array, (code) => halves[code]),
    unpack_byte: unpack(Int8Array, (code) => code),
    product,
    multiply,
    cell,
  };
}

export function simdKernels(code, size) {
  const memory = new WebAssembly.Memory({ initial: Math.ceil(size / 65536) + 2 });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(code), { env: { memory } });
  return { ...exports, name: "WebAssembly with SIMD", memory };
}

// The fast ones where they can be had; the page says which it got.
export function bestKernels(code, size) {
  try {
    return simdKernels(code, size);
  } catch {
    return plainKernels(size);
  }
}
