#include "train/rationale/factor_losses.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/text.h"

namespace signalbox::train {

namespace {

constexpr double least_mass = 1e-12;  // of a factor in a sentence, where z is divided by it

// out [m, n] (+)= a [m, k] b [k, n]: rows by threads, every element's sum in the order of k.
void product(ThreadPool& pool, double* out, const double* a, const double* b, int64_t m, int64_t k, int64_t n,
             bool add = false) {
  pool.parallel_for(m, [&](int64_t i, int) {
    double* row = out + i * n;
    if (!add) std::fill_n(row, n, 0.0);
    for (int64_t j = 0; j < k; ++j) {
      const double factor = a[i * k + j];
      const double* from = b + j * n;
      for (int64_t c = 0; c < n; ++c) row[c] += factor * from[c];
    }
  });
}

// out [m, n] += a^T b for a [k, m], b [k, n] whose rows are `a_stride` and `b_stride` apart.
void add_outer(ThreadPool& pool, double* out, const double* a, int64_t a_stride, const double* b, int64_t b_stride,
               int64_t k, int64_t m, int64_t n) {
  pool.parallel_for(m, [&](int64_t i, int) {
    double* row = out + i * n;
    for (int64_t j = 0; j < k; ++j) {
      const double factor = a[j * a_stride + i];
      if (factor == 0) continue;
      const double* from = b + j * b_stride;
      for (int64_t c = 0; c < n; ++c) row[c] += factor * from[c];
    }
  });
}

std::vector<double> transposed(const double* a, int64_t rows, int64_t cols) {
  std::vector<double> out(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) out[static_cast<size_t>(c * rows + r)] = a[r * cols + c];
  return out;
}

double dot(const double* a, const double* b, int64_t n) { return std::inner_product(a, a + n, b, 0.0); }
void add_scaled(double* to, double factor, const double* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

// One evaluation: what is made on the way forth is kept for the way back.
class Evaluation {
 public:
  Evaluation(const FactorParameters& p, const FactorBatch& batch, const FactorForms& forms, const FactorLosses& weights,
             ThreadPool& pool, FactorGradients* gradients)
      : p_(p),
        b_(batch),
        forms_(forms),
        w_(weights),
        pool_(pool),
        out_(gradients),
        n_s_(batch.n_sentences()),
        n_t_(batch.n_tokens()),
        n_k_(p.shape.n_factors),
        d_(p.shape.d_hidden),
        d_f_(p.shape.d_factor),
        d_e_(p.shape.d_target) {
    if (out_) {
      out_->parameters = FactorParameters(p.shape);
      out_->hidden.assign(b_.hidden.size(), 0);
      out_->target.assign(b_.target.size(), 0);
      d_pi_.assign(static_cast<size_t>(n_t_ * n_k_), 0);
      d_z_.assign(static_cast<size_t>(n_s_ * n_k_ * d_f_), 0);
    }
  }

  FactorLosses run() {
    losses_.fill(0);
    route();
    gather();
    transform();
    sentence();
    token();
    regularise();
    diversity();
    if (out_) back();
    return losses_;
  }
  void outputs(FactorOutputs& to) {
    to.pi = pi_;
    to.z = z_;
  }

 private:
  int64_t begin(int64_t s) const { return b_.offsets[static_cast<size_t>(s)]; }
  int64_t end(int64_t s) const { return b_.offsets[static_cast<size_t>(s) + 1]; }
  int64_t length(int64_t s) const { return end(s) - begin(s); }
  const double* h(int64_t t) const { return b_.hidden.data() + t * d_; }
  double* pi(int64_t t) { return pi_.data() + t * n_k_; }
  double* d_pi(int64_t t) { return d_pi_.data() + t * n_k_; }
  int64_t row(int64_t s, int64_t k) const { return s * n_k_ + k; }  // of z, z~ and so on
  double weight(size_t loss) const { return w_[loss] / static_cast<double>(n_s_); }
  double per_token(int64_t s) const { return forms_.per_token ? 1.0 / static_cast<double>(length(s)) : 1.0; }

  // Sums values of sentences in order.
  template <class F>
  double mean_over_sentences(const F& value) {
    std::vector<double> values(static_cast<size_t>(n_s_));
    pool_.parallel_for(n_s_, [&](int64_t s, int) { values[static_cast<size_t>(s)] = value(s); });
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(n_s_);
  }

  void route() {
    if (!b_.pi.empty()) {
      pi_ = b_.pi;
      return;
    }
    pi_.resize(static_cast<size_t>(n_t_ * n_k_));
    const std::vector<double> gate = transposed(p_.gate.data(), n_k_, d_);
    product(pool_, pi_.data(), b_.hidden.data(), gate.data(), n_t_, d_, n_k_);
    pool_.parallel_for(n_t_, [&](int64_t t, int) {
      double* row = pi(t);
      const double top = *std::max_element(row, row + n_k_);
      double sum = 0;
      for (int64_t k = 0; k < n_k_; ++k) sum += row[k] = std::exp(row[k] - top);
      for (int64_t k = 0; k < n_k_; ++k) row[k] /= sum;
    });
  }

  void gather() {
    raw_.assign(static_cast<size_t>(n_s_ * n_k_ * d_), 0);
    mass_.assign(static_cast<size_t>(n_s_ * n_k_), 0);
    pool_.parallel_for(n_s_, [&](int64_t s, int) {
      for (int64_t t = begin(s); t < end(s); ++t)
        for (int64_t k = 0; k < n_k_; ++k) {
          add_scaled(raw_.data() + row(s, k) * d_, pi(t)[k], h(t), d_);
          mass_[static_cast<size_t>(row(s, k))] += pi(t)[k];
        }
      if (!forms_.normalize) return;
      for (int64_t k = 0; k < n_k_; ++k)
        for (int64_t i = 0; i < d_; ++i) raw_[static_cast<size_t>(row(s, k) * d_ + i)] /= divisor(s, k);
    });
  }
  double divisor(int64_t s, int64_t k) const { return std::max(mass_[static_cast<size_t>(row(s, k))], least_mass); }

  void transform() {
    z_.assign(static_cast<size_t>(n_s_ * n_k_ * d_f_), 0);
    const auto n_maps = p_.shape.n_transforms();
    for (int64_t m = 0; m < n_maps; ++m) {
      const std::vector<double> map = transposed(p_.transform.data() + m * d_f_ * d_, d_f_, d_);
      pool_.parallel_for(n_s_ * n_k_, [&](int64_t r, int) {
        if (n_maps > 1 && r % n_k_ != m) return;
        for (int64_t i = 0; i < d_; ++i)
          add_scaled(z_.data() + r * d_f_, raw_[static_cast<size_t>(r * d_ + i)], map.data() + i * d_f_, d_f_);
      });
    }
  }

  // e^ [S, d_e], its loss, and the way back to z~ and V.
  void sentence() {
    std::vector<double> made(static_cast<size_t>(n_s_ * d_e_), 0), slope(made.size(), 0);
    for (int64_t k = 0; k < n_k_; ++k) {
      const std::vector<double> map = transposed(p_.readout.data() + k * d_e_ * d_f_, d_e_, d_f_);
      pool_.parallel_for(n_s_, [&](int64_t s, int) {
        for (int64_t i = 0; i < d_f_; ++i)
          add_scaled(made.data() + s * d_e_, z_[static_cast<size_t>(row(s, k) * d_f_ + i)], map.data() + i * d_e_,
                     d_e_);
      });
    }
    if (forms_.sentence == FactorForms::Sentence::infonce) {
      infonce(made, slope);
    } else {
      losses_[0] = mean_over_sentences([&](int64_t s) {
        double sum = 0;
        for (int64_t i = s * d_e_; i < (s + 1) * d_e_; ++i) {
          const double rest = made[static_cast<size_t>(i)] - b_.target[static_cast<size_t>(i)];
          sum += rest * rest;
          slope[static_cast<size_t>(i)] = 2 * weight(0) * rest;
        }
        return sum;
      });
      if (out_)
        for (size_t i = 0; i < slope.size(); ++i) out_->target[i] = -slope[i];
    }
    if (!out_) return;
    for (int64_t k = 0; k < n_k_; ++k) {
      const double* map = p_.readout.data() + k * d_e_ * d_f_;
      pool_.parallel_for(n_s_, [&](int64_t s, int) {
        for (int64_t i = 0; i < d_e_; ++i)
          add_scaled(d_z_.data() + row(s, k) * d_f_, slope[static_cast<size_t>(s * d_e_ + i)], map + i * d_f_, d_f_);
      });
      add_outer(pool_, out_->parameters.readout.data() + k * d_e_ * d_f_, slope.data(), d_e_, z_.data() + k * d_f_,
                n_k_ * d_f_, n_s_, d_e_, d_f_);
    }
  }

  // Both directions of the contrast of unit targets with unit reconstructions.
  void infonce(const std::vector<double>& made, std::vector<double>& slope) {
    const auto unit = [&](const std::vector<double>& of, std::vector<double>& norms) {
      std::vector<double> rows = of;
      for (int64_t s = 0; s < n_s_; ++s) {
        double* r = rows.data() + s * d_e_;
        norms.push_back(std::max(std::sqrt(dot(r, r, d_e_)), least_mass));
        for (int64_t i = 0; i < d_e_; ++i) r[i] /= norms.back();
      }
      return rows;
    };
    std::vector<double> norms_a, norms_r;
    const std::vector<double> a = unit(b_.target, norms_a), r = unit(made, norms_r);
    std::vector<double> like(static_cast<size_t>(n_s_ * n_s_)), d_like(like.size(), 0);
    for (int64_t i = 0; i < n_s_; ++i)
      for (int64_t j = 0; j < n_s_; ++j)
        like[static_cast<size_t>(i * n_s_ + j)] =
            dot(a.data() + i * d_e_, r.data() + j * d_e_, d_e_) / forms_.temperature;
    const double half = 0.5 / static_cast<double>(n_s_);
    const auto contrast = [&](int64_t i, int64_t step, int64_t start) {  // one row or one column
      const auto at = [&](int64_t j) { return static_cast<size_t>(start + j * step); };
      double top = like[at(0)], sum = 0;
      for (int64_t j = 1; j < n_s_; ++j) top = std::max(top, like[at(j)]);
      for (int64_t j = 0; j < n_s_; ++j) sum += std::exp(like[at(j)] - top);
      losses_[0] += half * (top + std::log(sum) - like[at(i)]);
      for (int64_t j = 0; j < n_s_; ++j)
        d_like[at(j)] += half * (std::exp(like[at(j)] - top) / sum - (i == j ? 1.0 : 0.0));
    };
    for (int64_t i = 0; i < n_s_; ++i) {
      contrast(i, 1, i * n_s_);
      contrast(i, n_s_, i);
    }
    if (!out_) return;
    const auto back = [&](const std::vector<double>& units, const std::vector<double>& norms,
                          const std::vector<double>& others, bool rows, std::vector<double>& to) {
      for (int64_t i = 0; i < n_s_; ++i) {
        std::vector<double> d(static_cast<size_t>(d_e_), 0);
        for (int64_t j = 0; j < n_s_; ++j)
          add_scaled(d.data(),
                     w_[0] / forms_.temperature * d_like[static_cast<size_t>(rows ? i * n_s_ + j : j * n_s_ + i)],
                     others.data() + j * d_e_, d_e_);
        const double* u = units.data() + i * d_e_;
        const double along = dot(u, d.data(), d_e_);
        for (int64_t c = 0; c < d_e_; ++c)
          to[static_cast<size_t>(i * d_e_ + c)] =
              (d[static_cast<size_t>(c)] - u[c] * along) / norms[static_cast<size_t>(i)];
      }
    };
    back(r, norms_r, a, false, slope);
    back(a, norms_a, r, true, out_->target);
  }

  // h^ = sum_k pi_ik (g z~_k), its loss, and the way back to pi, z~, g and h.
  void token() {
    const std::vector<double> map = transposed(p_.decoder.data(), d_, d_f_);
    std::vector<double> decoded(static_cast<size_t>(n_s_ * n_k_ * d_)), d_decoded(out_ ? decoded.size() : 0, 0);
    product(pool_, decoded.data(), z_.data(), map.data(), n_s_ * n_k_, d_f_, d_);
    losses_[1] = mean_over_sentences([&](int64_t s) {
      std::vector<double> rest(static_cast<size_t>(d_));
      double sum = 0;
      for (int64_t t = begin(s); t < end(s); ++t) {
        for (int64_t i = 0; i < d_; ++i) rest[static_cast<size_t>(i)] = -h(t)[i];
        for (int64_t k = 0; k < n_k_; ++k) add_scaled(rest.data(), pi(t)[k], decoded.data() + row(s, k) * d_, d_);
        sum += dot(rest.data(), rest.data(), d_);
        if (!out_) continue;
        const double factor = 2 * weight(1) * per_token(s);
        for (int64_t k = 0; k < n_k_; ++k) {
          d_pi(t)[k] += factor * dot(rest.data(), decoded.data() + row(s, k) * d_, d_);
          add_scaled(d_decoded.data() + row(s, k) * d_, factor * pi(t)[k], rest.data(), d_);
        }
        add_scaled(out_->hidden.data() + t * d_, -factor, rest.data(), d_);
      }
      return sum * per_token(s);
    });
    if (!out_) return;
    product(pool_, d_z_.data(), d_decoded.data(), p_.decoder.data(), n_s_ * n_k_, d_, d_f_, true);
    add_outer(pool_, out_->parameters.decoder.data(), d_decoded.data(), d_, z_.data(), d_f_, n_s_ * n_k_, d_, d_f_);
  }

  // The losses of pi alone.
  void regularise() {
    losses_[2] = mean_over_sentences([&](int64_t s) {
      double sum = 0;
      for (int64_t t = begin(s); t < end(s); ++t)
        for (int64_t k = 0; k < n_k_; ++k)
          if (const double x = pi(t)[k]; x > 0) {
            sum -= x * std::log(x);
            if (out_) d_pi(t)[k] -= weight(2) * per_token(s) * (std::log(x) + 1);
          }
      return sum * per_token(s);
    });
    losses_[3] = mean_over_sentences([&](int64_t s) {
      double sum = 0;
      const auto n = static_cast<double>(length(s));
      for (int64_t t = begin(s); t < end(s); ++t) {
        double total = 0, squares = 0;  // exact also where a given pi does not sum to one
        for (int64_t k = 0; k < n_k_; ++k) {
          total += pi(t)[k];
          squares += pi(t)[k] * pi(t)[k];
        }
        sum += (total * total - squares) / 2;
        if (out_)
          for (int64_t k = 0; k < n_k_; ++k) d_pi(t)[k] += weight(3) / n * (total - pi(t)[k]);
      }
      return sum / n;
    });
    balance();
    losses_[6] = mean_over_sentences([&](int64_t s) {
      if (length(s) < 2) return 0.0;
      const auto pairs = static_cast<double>(length(s) - 1);
      double sum = 0;
      for (int64_t t = begin(s) + 1; t < end(s); ++t)
        for (int64_t k = 0; k < n_k_; ++k) {
          const double step = pi(t)[k] - pi(t - 1)[k];
          sum += step * step;
          if (!out_) continue;
          d_pi(t)[k] += 2 * weight(6) / pairs * step;
          d_pi(t - 1)[k] -= 2 * weight(6) / pairs * step;
        }
      return sum / pairs;
    });
  }

  void balance() {
    const double share = 1.0 / static_cast<double>(n_k_);
    const auto used = [&](int64_t s, int64_t k) {
      return mass_[static_cast<size_t>(row(s, k))] / static_cast<double>(length(s));
    };
    std::vector<double> mean(static_cast<size_t>(n_k_), 0);
    const bool of_batch = forms_.balance == FactorForms::Balance::batch;
    if (of_batch) {
      for (int64_t s = 0; s < n_s_; ++s)
        for (int64_t k = 0; k < n_k_; ++k) mean[static_cast<size_t>(k)] += used(s, k) / static_cast<double>(n_s_);
      for (const double u : mean) losses_[5] += (u - share) * (u - share);
    }
    const double value = mean_over_sentences([&](int64_t s) {
      double sum = 0;
      for (int64_t k = 0; k < n_k_; ++k) {
        const double rest = (of_batch ? mean[static_cast<size_t>(k)] : used(s, k)) - share;
        sum += rest * rest;
        if (out_)
          for (int64_t t = begin(s); t < end(s); ++t)
            d_pi(t)[k] += 2 * weight(5) / static_cast<double>(length(s)) * rest;
      }
      return sum;
    });
    if (!of_batch) losses_[5] = value;
  }

  void diversity() {
    if (forms_.diversity == FactorForms::Diversity::covariance) {
      covariance();
      return;
    }
    const bool unit = forms_.diversity == FactorForms::Diversity::cosine;
    losses_[4] = mean_over_sentences([&](int64_t s) {
      const double* z = z_.data() + row(s, 0) * d_f_;
      std::vector<double> columns(z, z + n_k_ * d_f_), norms(static_cast<size_t>(n_k_), 1);
      if (unit)
        for (int64_t k = 0; k < n_k_; ++k) {
          double* column = columns.data() + k * d_f_;
          const double norm = norms[static_cast<size_t>(k)] =
              std::max(std::sqrt(dot(column, column, d_f_)), least_mass);
          for (int64_t i = 0; i < d_f_; ++i) column[i] /= norm;
        }
      std::vector<double> gram(static_cast<size_t>(n_k_ * n_k_));
      double sum = 0;
      for (int64_t k = 0; k < n_k_; ++k)
        for (int64_t j = 0; j < n_k_; ++j) {
          double& entry = gram[static_cast<size_t>(k * n_k_ + j)];
          // A unit column's own product is 1, but for a column of zeros.
          entry = unit && k == j
                      ? 0.0
                      : dot(columns.data() + k * d_f_, columns.data() + j * d_f_, d_f_) - (k == j ? 1.0 : 0.0);
          sum += entry * entry;
        }
      if (!out_) return sum;
      std::vector<double> d(static_cast<size_t>(d_f_));
      for (int64_t k = 0; k < n_k_; ++k) {
        std::fill(d.begin(), d.end(), 0.0);
        for (int64_t j = 0; j < n_k_; ++j)
          add_scaled(d.data(), 4 * weight(4) * gram[static_cast<size_t>(k * n_k_ + j)], columns.data() + j * d_f_,
                     d_f_);
        const double* column = columns.data() + k * d_f_;
        if (unit) add_scaled(d.data(), -dot(column, d.data(), d_f_), column, d_f_);
        add_scaled(d_z_.data() + row(s, k) * d_f_, 1 / norms[static_cast<size_t>(k)], d.data(), d_f_);
      }
      return sum;
    });
  }

  void covariance() {
    if (n_s_ < 2) return;
    const int64_t width = n_k_ * d_f_;
    std::vector<double> centred = z_, mean(static_cast<size_t>(width), 0);
    for (int64_t s = 0; s < n_s_; ++s)
      add_scaled(mean.data(), 1 / static_cast<double>(n_s_), z_.data() + s * width, width);
    for (int64_t s = 0; s < n_s_; ++s) add_scaled(centred.data() + s * width, -1, mean.data(), width);
    for (int64_t k = 0; k < n_k_; ++k)
      for (int64_t j = 0; j < n_k_; ++j) {
        if (j == k) continue;
        double entry = 0;
        for (int64_t s = 0; s < n_s_; ++s)
          entry += dot(centred.data() + row(s, k) * d_f_, centred.data() + row(s, j) * d_f_, d_f_);
        entry /= static_cast<double>(n_s_);
        losses_[4] += entry * entry;
        if (!out_) continue;
        for (int64_t s = 0; s < n_s_; ++s)  // the mean's own share is 0: the centred rows sum to 0
          add_scaled(d_z_.data() + row(s, k) * d_f_, 4 * weight(4) * entry, centred.data() + row(s, j) * d_f_, d_f_);
      }
  }

  // From z~ back to f, pi and h; from pi to the gate.
  void back() {
    std::vector<double> d_raw(raw_.size(), 0);
    const auto n_maps = p_.shape.n_transforms();
    pool_.parallel_for(n_s_ * n_k_, [&](int64_t r, int) {
      const double* map = p_.transform.data() + (n_maps > 1 ? r % n_k_ : 0) * d_f_ * d_;
      for (int64_t i = 0; i < d_f_; ++i)
        add_scaled(d_raw.data() + r * d_, d_z_[static_cast<size_t>(r * d_f_ + i)], map + i * d_, d_);
    });
    if (n_maps > 1) {
      for (int64_t k = 0; k < n_k_; ++k)
        add_outer(pool_, out_->parameters.transform.data() + k * d_f_ * d_, d_z_.data() + k * d_f_, n_k_ * d_f_,
                  raw_.data() + k * d_, n_k_ * d_, n_s_, d_f_, d_);
    } else {
      add_outer(pool_, out_->parameters.transform.data(), d_z_.data(), d_f_, raw_.data(), d_, n_s_ * n_k_, d_f_, d_);
    }
    pool_.parallel_for(n_s_, [&](int64_t s, int) {
      for (int64_t k = 0; k < n_k_; ++k) {
        double* d = d_raw.data() + row(s, k) * d_;
        double d_mass = 0;
        if (forms_.normalize) {
          const double by = divisor(s, k);
          if (mass_[static_cast<size_t>(row(s, k))] > least_mass)
            d_mass = -dot(d, raw_.data() + row(s, k) * d_, d_) / by;
          for (int64_t i = 0; i < d_; ++i) d[i] /= by;
        }
        for (int64_t t = begin(s); t < end(s); ++t) {
          d_pi(t)[k] += dot(d, h(t), d_) + d_mass;
          add_scaled(out_->hidden.data() + t * d_, pi(t)[k], d, d_);
        }
      }
    });
    if (!b_.pi.empty()) return;
    pool_.parallel_for(n_t_, [&](int64_t t, int) {
      double* d = d_pi(t);
      const double along = dot(d, pi(t), n_k_);
      for (int64_t k = 0; k < n_k_; ++k) {
        d[k] = pi(t)[k] * (d[k] - along);
        add_scaled(out_->hidden.data() + t * d_, d[k], p_.gate.data() + k * d_, d_);
      }
    });
    add_outer(pool_, out_->parameters.gate.data(), d_pi_.data(), n_k_, b_.hidden.data(), d_, n_t_, n_k_, d_);
  }

  const FactorParameters& p_;
  const FactorBatch& b_;
  const FactorForms& forms_;
  const FactorLosses& w_;
  ThreadPool& pool_;
  FactorGradients* out_;
  const int64_t n_s_, n_t_, n_k_, d_, d_f_, d_e_;
  FactorLosses losses_{};
  std::vector<double> pi_, raw_, mass_, z_;  // raw_: z [S, K, d], divided where it is
  std::vector<double> d_pi_, d_z_;
};

}  // namespace

FactorParameters::FactorParameters(const FactorShape& of)
    : shape(of),
      gate(static_cast<size_t>(of.n_factors * of.d_hidden), 0),
      transform(static_cast<size_t>(of.n_transforms() * of.d_factor * of.d_hidden), 0),
      readout(static_cast<size_t>(of.n_factors * of.d_target * of.d_factor), 0),
      decoder(static_cast<size_t>(of.d_hidden * of.d_factor), 0) {}

std::vector<double>& factor_parameter(FactorParameters& of, size_t i) {
  return i == 0 ? of.gate : i == 1 ? of.transform : i == 2 ? of.readout : of.decoder;
}

std::vector<int64_t> factor_parameter_shape(const FactorShape& s, size_t i) {
  if (i == 0) return {s.n_factors, s.d_hidden};
  if (i == 1) return {s.n_transforms(), s.d_factor, s.d_hidden};
  if (i == 2) return {s.n_factors, s.d_target, s.d_factor};
  return {s.d_hidden, s.d_factor};
}

FactorLosses parse_factor_weights(const std::string& text, const std::string& where) {
  FactorLosses weights{};
  const std::string expected = "expected " + joined(factor_loss_names, "=X,") + "=X, or numbers in that order";
  size_t next = 0, place = 0;
  std::array<bool, n_factor_losses> seen{};
  while (next <= text.size()) {
    const size_t comma = std::min(text.find(',', next), text.size());
    std::string_view item = trimmed(std::string_view(text).substr(next, comma - next));
    next = comma + 1;
    size_t at = place++;
    if (const size_t equals = item.find('='); equals != std::string_view::npos) {
      const std::string_view name = trimmed(item.substr(0, equals));
      at = static_cast<size_t>(std::find(factor_loss_names.begin(), factor_loss_names.end(), name) -
                               factor_loss_names.begin());
      item = trimmed(item.substr(equals + 1));
    }
    double value = 0;
    const auto [rest, code] = std::from_chars(item.data(), item.data() + item.size(), value);
    if (at >= n_factor_losses || code != std::errc() || rest != item.data() + item.size() || !std::isfinite(value) ||
        value < 0)
      throw UsageError(where, expected + " (none below 0), found " + in_quotes(text));
    if (seen[at])
      throw UsageError(where, std::string("expected each loss once, found ") + factor_loss_names[at] + " again");
    seen[at] = true;
    weights[at] = value;
  }
  return weights;
}

FactorLosses factor_losses(const FactorParameters& parameters, const FactorBatch& batch, const FactorForms& forms,
                           const FactorLosses& weights, ThreadPool& pool, FactorOutputs* outputs,
                           FactorGradients* gradients) {
  Evaluation evaluation(parameters, batch, forms, weights, pool, gradients);
  const FactorLosses losses = evaluation.run();
  if (outputs) evaluation.outputs(*outputs);
  return losses;
}

}  // namespace signalbox::train
