// The four loops in which a live page spends its time, for WebAssembly with 128-bit SIMD. No library:
// `build` in this folder makes kernels.wasm of this file, and kernels.js says the same in JavaScript.
//
// Matrices lie in panels of 32 columns: panel p holds, row by row, columns 32 p … 32 p + 31. So a
// product reads its matrix once, from front to back, and eight registers hold its sums.

#include <stdint.h>
#include <wasm_simd128.h>

#define PANEL 32

extern unsigned char __heap_base; // where the memory is free
uint32_t heap_base(void) { return (uint32_t)&__heap_base; }

// IEEE half precision as a float; exact. 2^112 moves the exponent's bias from 15 to 127.
static float from_half(uint16_t code) {
  union { uint32_t bits; float value; } wide = { (uint32_t)(code & 0x7fff) << 13 };
  wide.value *= 0x1p112f;
  wide.bits |= (uint32_t)(code & 0x8000) << 16;
  return wide.value;
}

// `columns` columns of a matrix of `rows` rows, as floats in panels; what is missing to a whole panel
// stays 0. `stride` is the number of codes in a row; each column has its factor.
void unpack_half(float *to, const uint16_t *code, const float *factor, int rows, int columns, int stride) {
  for (int m = 0; m < columns; m++)
    for (int k = 0; k < rows; k++)
      to[(m / PANEL * rows + k) * PANEL + m % PANEL] = from_half(code[k * stride + m]) * factor[m];
}

void unpack_byte(float *to, const int8_t *code, const float *factor, int rows, int columns, int stride) {
  for (int m = 0; m < columns; m++)
    for (int k = 0; k < rows; k++)
      to[(m / PANEL * rows + k) * PANEL + m % PANEL] = (float)code[k * stride + m] * factor[m];
}

// y += x W, for a row x of `rows` numbers and a matrix of `panels` panels.
void product(float *y, const float *x, const float *w, int rows, int panels) {
  for (int p = 0; p < panels; p++, y += PANEL) {
    v128_t sum[8];
    for (int j = 0; j < 8; j++) sum[j] = wasm_v128_load(y + 4 * j);
    for (int k = 0; k < rows; k++, w += PANEL) {
      const v128_t one = wasm_v128_load32_splat(x + k);
      for (int j = 0; j < 8; j++)
        sum[j] = wasm_f32x4_add(sum[j], wasm_f32x4_mul(one, wasm_v128_load(w + 4 * j)));
    }
    for (int j = 0; j < 8; j++) wasm_v128_store(y + 4 * j, sum[j]);
  }
}

// e^x. 2^n for the whole part of x / ln 2, six terms of the series for the rest.
static v128_t power(v128_t x) {
  x = wasm_f32x4_max(wasm_f32x4_min(x, wasm_f32x4_splat(87.0f)), wasm_f32x4_splat(-87.0f));
  const v128_t n = wasm_f32x4_nearest(wasm_f32x4_mul(x, wasm_f32x4_splat(1.44269504f)));
  x = wasm_f32x4_sub(x, wasm_f32x4_mul(n, wasm_f32x4_splat(0.693359375f)));
  x = wasm_f32x4_add(x, wasm_f32x4_mul(n, wasm_f32x4_splat(2.12194440e-4f)));
  static const float terms[7] = { 1 / 720.f, 1 / 120.f, 1 / 24.f, 1 / 6.f, 0.5f, 1.f, 1.f };
  v128_t y = wasm_f32x4_splat(terms[0]);
  for (int k = 1; k < 7; k++) y = wasm_f32x4_add(wasm_f32x4_mul(y, x), wasm_f32x4_splat(terms[k]));
  const v128_t whole = wasm_i32x4_trunc_sat_f32x4(n);
  return wasm_f32x4_mul(y, wasm_i32x4_shl(wasm_i32x4_add(whole, wasm_i32x4_splat(127)), 23));
}

static v128_t sigmoid(v128_t x) {
  const v128_t one = wasm_f32x4_splat(1);
  return wasm_f32x4_div(one, wasm_f32x4_add(one, power(wasm_f32x4_neg(x))));
}

static v128_t tangent(v128_t x) { // tanh x = 2 σ(2x) − 1
  const v128_t two = wasm_f32x4_splat(2);
  return wasm_f32x4_sub(wasm_f32x4_mul(two, sigmoid(wasm_f32x4_mul(two, x))), wasm_f32x4_splat(1));
}

// m = a ⊙ b
void multiply(float *m, const float *a, const float *b, int size) {
  for (int n = 0; n < size; n += 4)
    wasm_v128_store(m + n, wasm_f32x4_mul(wasm_v128_load(a + n), wasm_v128_load(b + n)));
}

// The cell: z holds the sums of the gates i, f, o and of u, `size` numbers each. Writes c, h and f.
void cell(const float *z, float *c, float *h, float *f, int size) {
  for (int n = 0; n < size; n += 4) {
    const v128_t i = sigmoid(wasm_v128_load(z + n));
    const v128_t keep = sigmoid(wasm_v128_load(z + size + n));
    const v128_t o = sigmoid(wasm_v128_load(z + 2 * size + n));
    const v128_t u = tangent(wasm_v128_load(z + 3 * size + n));
    const v128_t now = wasm_f32x4_add(wasm_f32x4_mul(keep, wasm_v128_load(c + n)), wasm_f32x4_mul(i, u));
    wasm_v128_store(c + n, now);
    wasm_v128_store(h + n, wasm_f32x4_mul(o, tangent(now)));
    wasm_v128_store(f + n, keep);
  }
}
