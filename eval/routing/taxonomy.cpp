#include "eval/routing/taxonomy.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>

#include "base/csv.h"
#include "base/files.h"
#include "eval/routing/domain_ratio.h"
#include "eval/routing/units.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

namespace {

constexpr size_t most_bytes = size_t{1} << 30;  // of all threads' sums

// Sums over units of counts and of their products. e: tokens that select an expert, c: of a class, x: both, t: all.
struct Moments {
  int64_t units = 0, t = 0, tt = 0;
  std::vector<int64_t> e, ee, et;              // [rows]
  std::vector<int64_t> c, cc, ct;              // [classes]
  std::vector<int64_t> x, xx, xe, xc, xt, ec;  // [rows, classes]
  explicit Moments(size_t n_rows)
      : e(n_rows), ee(n_rows), et(n_rows), c(n_token_classes), cc(n_token_classes), ct(n_token_classes) {
    for (auto* one : {&x, &xx, &xe, &xc, &xt, &ec}) one->resize(n_rows * n_token_classes);
  }
  Moments& operator+=(const Moments& other) {
    units += other.units;
    t += other.t;
    tt += other.tt;
    const auto add = [](std::vector<int64_t>& to, const std::vector<int64_t>& from) {
      for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
    };
    add(e, other.e), add(ee, other.ee), add(et, other.et), add(c, other.c), add(cc, other.cc), add(ct, other.ct);
    add(x, other.x), add(xx, other.xx), add(xe, other.xe), add(xc, other.xc), add(xt, other.xt), add(ec, other.ec);
    return *this;
  }
};

// Counts of one unit.
struct UnitClasses {
  int64_t t = 0;
  std::vector<int64_t> e, x;
  std::array<int64_t, n_token_classes> c{};
  explicit UnitClasses(size_t n_rows) : e(n_rows), x(n_rows * n_token_classes) {}

  void take(const TraceSet& set, const RouteOptions& options, const TokenSpelling& spelling, size_t sample) {
    const SampleRoutes routes = read_routes(set, sample, options.filter);
    const TraceReader& trace = set.trace(set.samples()[sample].trace);
    const TraceReader::Rows rows = trace.rows(set.samples()[sample].index);
    const std::vector<uint32_t> all = spelling.classes(trace.tokens(rows));
    const std::vector<uint8_t> counted = counted_tokens(trace, rows, options.filter);
    const int64_t n_experts = set.n_experts();
    int64_t token = -1;
    for (size_t i = 0; i < all.size(); ++i) {
      if (!counted[i]) continue;
      ++token;
      if (all[i] & unknown_token) continue;
      size_t mine[n_token_classes], n = 0;
      for (size_t one = 0; one < n_token_classes; ++one)
        if (all[i] >> one & 1) {
          mine[n++] = one;
          ++c[one];
        }
      ++t;
      for (int64_t layer = 0; layer < routes.n_layers; ++layer) {
        const int32_t* experts = routes.route(token, layer);
        for (int64_t slot = 0; slot < routes.n_slots; ++slot) {
          if (experts[slot] < 0) continue;
          const size_t row = static_cast<size_t>(layer * n_experts + experts[slot]);
          ++e[row];
          for (size_t k = 0; k < n; ++k) ++x[row * n_token_classes + mine[k]];
        }
      }
    }
  }

  // Adds to the sums, and is empty again.
  void flush(Moments& to) {
    if (t == 0) return;
    ++to.units;
    to.t += t;
    to.tt += t * t;
    for (size_t one = 0; one < n_token_classes; ++one) {
      to.c[one] += c[one];
      to.cc[one] += c[one] * c[one];
      to.ct[one] += c[one] * t;
    }
    for (size_t row = 0; row < e.size(); ++row) {
      if (e[row] == 0) continue;
      to.e[row] += e[row];
      to.ee[row] += e[row] * e[row];
      to.et[row] += e[row] * t;
      for (size_t one = 0; one < n_token_classes; ++one) {
        if (c[one] == 0) continue;
        const size_t cell = row * n_token_classes + one;
        const int64_t n = x[cell];
        to.x[cell] += n;
        to.xx[cell] += n * n;
        to.xe[cell] += n * e[row];
        to.xc[cell] += n * c[one];
        to.xt[cell] += n * t;
        to.ec[cell] += e[row] * c[one];
        x[cell] = 0;
      }
      e[row] = 0;
    }
    c.fill(0);
    t = 0;
  }
};

// Sum over units of (a x + b e + g c + d t)^2, times units / (units - 1): the variance of the sum.
double variance_of(const Moments& m, size_t row, size_t one, double a, double b, double g, double d) {
  const size_t cell = row * n_token_classes + one;
  const auto of = [](int64_t value) { return static_cast<double>(value); };
  const double squares = a * a * of(m.xx[cell]) + b * b * of(m.ee[row]) + g * g * of(m.cc[one]) + d * d * of(m.tt);
  const double products = a * b * of(m.xe[cell]) + a * g * of(m.xc[cell]) + a * d * of(m.xt[cell]) +
                          b * g * of(m.ec[cell]) + b * d * of(m.et[row]) + g * d * of(m.ct[one]);
  const double sum = squares + 2 * products;
  // Terms that cancel leave rounding: no more than that is nothing.
  if (sum < 1e-12 * squares) return 0;
  return sum * of(m.units) / of(m.units - 1);
}

struct Estimate {
  int64_t count = 0;
  double ratio = no_number, ci_lo = no_number, ci_hi = no_number, p = no_number;
};

// None where too few tokens are due.
std::optional<Estimate> estimate_of(const Moments& m, size_t row, size_t one) {
  const double t = static_cast<double>(m.t), e = static_cast<double>(m.e[row]), c = static_cast<double>(m.c[one]),
               x = static_cast<double>(m.x[row * n_token_classes + one]);
  if (!(t > 0) || e * c / t < taxonomy_expected || e * (t - c) / t < taxonomy_expected) return std::nullopt;
  Estimate out;
  out.count = m.x[row * n_token_classes + one];
  out.ratio = rate_ratio(x, c, e - x, t - c);
  if (m.units < 2) return out;
  const double here = x > 0 ? x : 0.5, there = e > x ? e - x : 0.5;
  const double log_ratio = std::log(here / c / (there / (t - c)));
  const double own_here = x > 0 ? 1 / x : 0, own_there = e > x ? 1 / there : 0;
  // No error is smaller than that of independent tokens: of few units that happen to agree the spread says too little.
  const double spread = variance_of(m, row, one, own_here + own_there, -own_there, -1 / c - 1 / (t - c), 1 / (t - c)) +
                        (x > 0 ? 0 : 2) + (e > x ? 0 : 2);
  const double variance = std::max(spread, 1 / here - 1 / c + 1 / there - 1 / (t - c));
  const boost::math::students_t student(static_cast<double>(m.units - 1));
  const double reach = boost::math::quantile(boost::math::complement(student, 0.025)) * std::sqrt(variance);
  out.ci_lo = x > 0 ? std::exp(log_ratio - reach) : 0;
  out.ci_hi = std::exp(log_ratio + reach);
  const double excess = x - e * c / t;
  const double moved = variance_of(m, row, one, 1, -c / t, -e / t, e * c / (t * t) - excess / t);
  const double error = std::sqrt(std::max(moved, e * (t - e) * c * (t - c) / (t * t * t)));
  out.p = error > 0 ? student_t_p(excess / error, static_cast<double>(m.units - 1)) : 1;
  return out;
}

}  // namespace

std::vector<TaxonomyRow> taxonomy(const TraceSet& set, const RouteOptions& options, const TokenSpelling& spelling) {
  const Units units = units_of(set);
  const std::vector<uint8_t> half_of = halves_of(units, options.seed);
  const size_t n_rows = set.n_rows(), n_experts = static_cast<size_t>(set.n_experts());
  const size_t bytes = n_rows * n_token_classes * 13 * sizeof(int64_t);
  const size_t n_threads =
      std::clamp<size_t>(most_bytes / std::max<size_t>(bytes, 1), 1, static_cast<size_t>(threads_of(options)));
  std::vector<std::array<Moments, 2>> sums(n_threads, {Moments(n_rows), Moments(n_rows)});
  std::vector<UnitClasses> counts(n_threads, UnitClasses(n_rows));
  ThreadPool pool(static_cast<int>(n_threads));
  std::atomic<int64_t> finished = 0;
  const int64_t n_units = static_cast<int64_t>(units.size());
  pool.parallel_for(n_units, [&](int64_t unit, int thread) {
    const size_t u = static_cast<size_t>(unit), mine = static_cast<size_t>(thread);
    for (const size_t sample : units.samples[u]) counts[mine].take(set, options, spelling, sample);
    counts[mine].flush(sums[mine][half_of[u]]);
    const int64_t now = ++finished;
    if (thread == 0 && options.on_progress) options.on_progress("taxonomy", now, n_units);
  });
  for (size_t i = 1; i < n_threads; ++i)
    for (const size_t half : {size_t{0}, size_t{1}}) sums[0][half] += sums[i][half];

  std::vector<TaxonomyRow> out;
  std::vector<double> p;
  for (size_t row = 0; row < n_rows; ++row)
    for (size_t one = 0; one < n_token_classes; ++one) {
      const std::optional<Estimate> found = estimate_of(sums[0][0], row, one),
                                    again = estimate_of(sums[0][1], row, one);
      if (!found) continue;
      TaxonomyRow made{set.layers()[row / n_experts],
                       static_cast<int32_t>(row % n_experts),
                       static_cast<TokenClass>(one),
                       found->count,
                       found->ratio,
                       found->ci_lo,
                       found->ci_hi,
                       found->p,
                       no_number,
                       std::nullopt};
      if (again && again->ci_lo >= 0) made.replicated = found->ratio >= 1 ? again->ci_lo > 1 : again->ci_hi < 1;
      p.push_back(found->p);
      out.push_back(made);
    }
  const std::vector<double> q = benjamini_hochberg(p);
  for (size_t i = 0; i < out.size(); ++i) out[i].q = q[i];
  return out;
}

void write_taxonomy_csv(const std::filesystem::path& file, const std::vector<TaxonomyRow>& rows) {
  CsvWriter csv({"layer", "expert", "class", "count", "rate_ratio", "ci_lo", "ci_hi", "q", "replicated", "p"});
  for (const TaxonomyRow& row : rows) {
    csv.cell(int64_t{row.layer}).cell(int64_t{row.expert}).cell(token_class_name(row.of)).cell(row.count);
    csv.cell(row.ratio).cell(row.ci_lo).cell(row.ci_hi).cell(row.q);
    csv.cell(row.replicated ? static_cast<double>(*row.replicated) : no_number).cell(row.p).end_row();
  }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
