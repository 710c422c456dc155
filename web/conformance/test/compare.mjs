// What the runner compares: the same numbers as the program's own tests have, and every format.
import assert from 'node:assert/strict';
import { compare, fits } from '../run.js';

const POISON = 0x7fc0dead;
const base64 = (array) => Buffer.from(array.buffer).toString('base64');
const floats = (...numbers) => new Uint32Array(Float32Array.from(numbers).buffer);

// What is wrong with words, of which these elements are wanted.
function compared(format, words, want, tolerance, at = null) {
  const data = [Float64Array.from(want), Float64Array.from(want, (_, i) => tolerance(i)), Uint32Array.from(at ?? [])];
  const bundle = { data: data.map(base64) };
  const check = {
    part: 'part', buffer: 0, first_word: at ? null : 0, words: at ? 2 : null, format, count: want.length,
    expected: { data: 0 }, tolerance: { data: 1 }, derivation: 'why',
  };
  try {
    compare(bundle, { dispatches: [] }, check, words);
    return null;
  } catch (wrong) {
    return wrong;
  }
}

const growing = (tolerance) => (i) => tolerance * (i + 1);
assert.equal(compared('f32', floats(1, 2), [1.5, 2.9], growing(0.5)), null);
// The first is off by twice its tolerance, the second by one and a half of its own, which is larger.
let wrong = compared('f32', floats(1, 2, 3), [2, 3.5, 3], growing(0.5));
assert.deepEqual([wrong.worst.index, wrong.worst.wrong], [0, 2]);
assert.equal(wrong.message, 'part[0] is 1e0, not 2e0 within 5e-1; 2 of 3 are wrong');
// What is not finite is farther off than any number, and is right beside another.
wrong = compared('f32', floats(9, NaN, Infinity), [1, 1, NaN], growing(0.1));
assert.deepEqual([wrong.worst.index, wrong.worst.wrong, wrong.worst.actual], [1, 2, null]);
const poisoned = floats(1, 0);
poisoned[1] = POISON;
wrong = compared('f32', poisoned, [1, NaN], growing(0.1));
assert.deepEqual([wrong.worst.index, wrong.message], [1, 'part[1] was not written']);
// A tolerance that is no number allows nothing, one without bounds anything.
assert.ok(compared('f32', floats(1), [1], () => NaN));
assert.equal(compared('f32', floats(1), [1], () => 0), null);
assert.equal(compared('f32', floats(NaN), [1], () => Infinity), null);
// Halves: two a word, subnormal ones and infinities among them.
const halves = Uint32Array.of(0x3c00 | (0xc000 << 16), 0x0001 | (0xfc00 << 16));
assert.equal(compared('f16', halves, [1, -2, 2 ** -24, -Infinity], () => 0), null);
wrong = compared('f16', halves, [1, -2, 2 ** -23, -Infinity], () => 0);
assert.deepEqual([wrong.worst.index, wrong.worst.actual], [2, 2 ** -24]);
assert.ok(compared('f16', Uint32Array.of(POISON), [1], () => 1e9).message.endsWith('was not written'));
// Natural numbers may be the poison where it is wanted, and are wherever they are said to be.
assert.equal(compared('u32', Uint32Array.of(7, POISON, 0xffffffff), [0xffffffff, POISON], () => 0, [2, 1]), null);
assert.equal(compared('u32', Uint32Array.of(3), [4], () => 0).message, 'part[0] is 3, not 4');
assert.equal(compared('u8', Uint32Array.of(0xff030201), [1, 2, 3, 255], () => 0), null);
assert.equal(compared('u4', Uint32Array.of(0xf7654321), [1, 2, 3, 4, 5, 6, 7, 15], () => 0), null);
assert.equal(compared('u2', Uint32Array.of(0b11100100), [0, 1, 2, 3], () => 0), null);
assert.ok(compared('u2', Uint32Array.of(0b11100100), [0, 1, 2, 2], () => 0));

for (const [pattern, name, does] of [
  ['top_k/*nan', 'top_k/level-1-nan@trusted', true], ['a.b', 'a-b', false], ['', 'a', true], ['b*a', 'a-b', false],
]) assert.equal(fits(pattern, name), does, `${pattern} ${name}`);
