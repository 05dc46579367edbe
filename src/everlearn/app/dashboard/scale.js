// Scales from numbers to pixels, and round numbers for axes.

/** Return about `wanted` round numbers from about `low` to about `high`. */
export function ticks(low, high, wanted) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((one) => one * power >= rough * 0.999) * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

/** Return the interval of all finite values, widened to round numbers; [0, 1] without any. */
export function extent(arrays, { zero = false, least = 0, wanted = 4 } = {}) {
  let low = Infinity;
  let high = -Infinity;
  for (const values of arrays) {
    for (const value of values) {
      if (value === null || !Number.isFinite(value)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low > high) return [0, 1];
  if (zero) low = Math.min(0, low);
  if (zero) high = Math.max(0, high);
  const middle = (low + high) / 2;
  const half = Math.max((high - low) / 2, least / 2, Math.abs(middle) * 1e-6, 1e-9);
  if (half > (high - low) / 2) [low, high] = zero && low === 0 ? [0, Math.max(high, 2 * half)] : [middle - half, middle + half];
  const steps = ticks(low, high, wanted);
  const step = steps.length > 1 ? steps[1] - steps[0] : (high - low) / wanted;
  return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
}

export const linear = (from, to, start, end) => (value) => start + ((value - from) / (to - from || 1)) * (end - start);

/** Return the index of the value nearest to `x` in an ascending array. */
export function nearest(values, x) {
  let low = 0;
  let high = values.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - values[low - 1] < values[low] - x ? low - 1 : low;
}

/** Return the weighted mean over each point and the 4 points before it, as in the picture of the report. */
export function trend(values, weights, window = 5) {
  return values.map((_, i) => {
    let sum = 0;
    let weight = 0;
    for (let k = Math.max(0, i - window + 1); k <= i; k++) {
      sum += values[k] * weights[k];
      weight += weights[k];
    }
    return weight > 0 ? sum / weight : values[i];
  });
}
