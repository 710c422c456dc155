// What the library makes of tiny models, beside what transformers made of them (tools/goldens/tiny_models.py).

/// The tensors of a safetensors file, by their names.
export function tensors(bytes) {
  const length = Number(new DataView(bytes).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, length)));
  const made = {};
  for (const [name, tensor] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const [from, to] = tensor.data_offsets.map((offset) => 8 + length + offset);
    const kinds = { F32: Float32Array, U32: Uint32Array };
    made[name] = new kinds[tensor.dtype](bytes.slice(from, to));
  }
  return made;
}

/// The largest difference, which no number that is not finite is within.
export function apart(got, want) {
  if (got.length !== want.length) return Infinity;
  let most = 0;
  for (let i = 0; i < got.length; i += 1) {
    const difference = Math.abs(got[i] - want[i]);
    if (!(difference <= most)) most = Number.isFinite(difference) ? difference : Infinity;
  }
  return most;
}

// The largest finite number of these, as a size.
const scale = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

// The lowest of the largest, as everywhere.
const likeliest = (row) => row.indexOf(row.reduce((most, value) => Math.max(most, value), -Infinity));

/// What a model came to: `model` is the library's, `golden` what it should make. Tolerances are those of the program's own tests
/// (`tests/all/tiny_models.rs`), without matrix units: an f16 cache explains so much, and of latents more roundings 2.83 times as much.
export async function checks(model, golden) {
  const error = golden.f16_cache_error[0];
  const same = 0.22 * error + 2e-5 * scale(golden.logits);
  const rows = [];
  const check = (what, got, want, tolerance) => {
    const difference = apart(got, want);
    rows.push({ what, apart: difference, tolerance, passed: difference <= tolerance });
  };
  const prompt = await model.prefill(golden.ids);
  check('logits of the prompt', prompt, golden.logits, (golden.logits_f16_cache ? 1.2 : 2.83) * error);
  if (golden.logits_f16_cache) check('logits with an f16 cache', prompt, golden.logits_f16_cache, same);

  const vocabulary = prompt.length / golden.ids.length;
  const follow = async (tokens) => {
    await model.prefill(golden.ids);
    const made = [];
    for (const id of golden.greedy) made.push(await model.decode(id, tokens));
    return made;
  };
  const dense = await follow(undefined);
  const greedy = [prompt.slice(-vocabulary), ...dense.slice(0, -1)].map(likeliest);
  check('tokens that follow, greedily', greedy, golden.greedy, 0);
  const selected = await follow(golden.ids.length + golden.greedy.length);
  const flat = (made) => made.flatMap((row) => [...row]);
  check('logits with two levels of selection', flat(selected), flat(dense), 2 * same);
  return rows;
}
