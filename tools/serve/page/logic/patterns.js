// Who is used when: experts by domain, over the tokens, and from one token to the next. The same definitions as
// domains.csv, usage.csv and transitions.csv of `signalbox analyze`, over the texts of this page.

/**
 * Share of a domain's selections at one layer that went to each expert.
 * @param {{domain: string, routes: Routes}[]} runs @param {number} layer absolute
 */
export function domainShares(runs, layer) {
  const domains = [...new Set(runs.map(run => run.domain))], E = Math.max(0, ...runs.map(run => run.routes.nExperts));
  const shares = new Float64Array(domains.length * E), selections = new Float64Array(domains.length);
  const tokens = new Float64Array(domains.length);
  for (const {domain, routes} of runs) {
    const d = domains.indexOf(domain), l = routes.layerIndex(layer);
    if (l < 0) continue;
    for (let t = 0; t < routes.rows; ++t) {
      ++tokens[d];
      for (const e of routes.experts(t, l)) {
        ++shares[d * E + e];
        ++selections[d];
      }
    }
  }
  const counts = shares.slice();
  for (let d = 0; d < domains.length; ++d)
    for (let e = 0; e < E; ++e) shares[d * E + e] = selections[d] ? shares[d * E + e] / selections[d] : 0;
  return {domains, nExperts: E, shares, counts, selections, tokens};
}

/** Cramér's V of domain × expert, experts never selected left out; NaN for fewer than two rows or columns. */
export function cramersV({domains, nExperts: E, counts, selections}) {
  const rows = domains.map((_, d) => d).filter(d => selections[d] > 0);
  const columns = [];
  for (let e = 0; e < E; ++e) {
    const sum = rows.reduce((total, d) => total + counts[d * E + e], 0);
    if (sum > 0) columns.push([e, sum]);
  }
  if (rows.length < 2 || columns.length < 2) return NaN;
  const n = rows.reduce((total, d) => total + selections[d], 0);
  let chi2 = 0;
  for (const d of rows)
    for (const [e, sum] of columns) {
      const expected = selections[d] * sum / n;
      chi2 += (counts[d * E + e] - expected) ** 2 / expected;
    }
  return Math.sqrt(chi2 / (n * (Math.min(rows.length, columns.length) - 1)));
}

/** Counts from the expert of the highest weight to that of the next token, and P(next | this). */
export function transitions(routes, layer) {
  const E = routes.nExperts, l = routes.layerIndex(layer), counts = new Uint32Array(E * E), from = new Uint32Array(E);
  for (let t = 0; l >= 0 && t + 1 < routes.rows; ++t) {
    const a = routes.first(t, l), b = routes.first(t + 1, l);
    if (a >= E || b >= E) continue;
    ++counts[a * E + b];
    ++from[a];
  }
  const probabilities =
    Float64Array.from(counts, (count, i) => from[Math.floor(i / E)] ? count / from[Math.floor(i / E)] : 0);
  return {nExperts: E, counts, probabilities, from};
}

/** P(e at t + 1 given e at t) of all experts of a layer together, and what it would be by chance (their rates). */
export function stickiness(routes, layer) {
  const l = routes.layerIndex(layer), E = routes.nExperts, uses = new Uint32Array(E);
  let stayed = 0, had = 0;
  for (let t = 0; l >= 0 && t < routes.rows; ++t)
    for (const e of routes.experts(t, l)) {
      ++uses[e];
      if (t + 1 < routes.rows) {
        ++had;
        stayed += routes.has(t + 1, l, e) ? 1 : 0;
      }
    }
  const total = uses.reduce((a, b) => a + b, 0);
  const chance = total ? uses.reduce((sum, n) => sum + n / total * n / routes.rows, 0) : NaN;
  return {stay: had ? stayed / had : NaN, chance};
}
