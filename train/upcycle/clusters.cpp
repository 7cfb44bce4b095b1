#include "train/upcycle/clusters.h"

#include <algorithm>
#include <limits>
#include <string>

#include "eval/data/dice.h"

namespace signalbox::train {

namespace {

constexpr int max_rounds = 100;
constexpr double infinite = std::numeric_limits<double>::infinity();

// Items are put in one by one; each takes the cheapest chain of moves that ends in a group with room.
class Transport {
 public:
  Transport(std::span<const double> costs, int64_t n, int64_t k)
      : costs_(costs), k_(k), room_(n / k), members_(static_cast<size_t>(k)), of_(static_cast<size_t>(n), -1) {
    moves_.assign(static_cast<size_t>(k * k), Move());
  }

  void put(int64_t item) {
    // Bellman and Ford over the groups: distance of having one item too many in a group.
    std::vector<double> distance(static_cast<size_t>(k_));
    std::vector<int64_t> from(distance.size(), -1);
    for (int64_t c = 0; c < k_; ++c) distance[static_cast<size_t>(c)] = cost(item, c);
    for (int64_t round = 1; round < k_; ++round) {
      bool changed = false;
      for (int64_t a = 0; a < k_; ++a)
        for (int64_t b = 0; b < k_; ++b) {
          const double through = distance[static_cast<size_t>(a)] + move(a, b).cost;
          if (through < distance[static_cast<size_t>(b)]) {
            distance[static_cast<size_t>(b)] = through;
            from[static_cast<size_t>(b)] = a;
            changed = true;
          }
        }
      if (!changed) break;
    }
    int64_t end = -1;
    for (int64_t c = 0; c < k_; ++c)
      if (size(c) < room_ && (end < 0 || distance[static_cast<size_t>(c)] < distance[static_cast<size_t>(end)]))
        end = c;
    // Rounding may close a circle of length 0: a chain passes each group once.
    std::vector<int64_t> chain(1, end);
    while (from[static_cast<size_t>(chain.back())] >= 0 && static_cast<int64_t>(chain.size()) < k_)
      chain.push_back(from[static_cast<size_t>(chain.back())]);
    for (size_t i = 0; i + 1 < chain.size(); ++i) take(move(chain[i + 1], chain[i]).item, chain[i]);
    take(item, chain.back());
    for (const int64_t c : chain) renew(c);
  }

  std::vector<int32_t> result() && { return std::move(of_); }

 private:
  struct Move {
    double cost = infinite;
    int64_t item = -1;
  };
  double cost(int64_t item, int64_t c) const { return costs_[static_cast<size_t>(item * k_ + c)]; }
  Move& move(int64_t a, int64_t b) { return moves_[static_cast<size_t>(a * k_ + b)]; }
  int64_t size(int64_t c) const { return static_cast<int64_t>(members_[static_cast<size_t>(c)].size()); }

  void take(int64_t item, int64_t to) {
    int32_t& of = of_[static_cast<size_t>(item)];
    if (of >= 0) std::erase(members_[static_cast<size_t>(of)], item);
    of = static_cast<int32_t>(to);
    members_[static_cast<size_t>(to)].push_back(item);
  }

  // The cheapest item of a group to give to each other one.
  void renew(int64_t a) {
    for (int64_t b = 0; b < k_; ++b) {
      Move best;
      if (b != a)
        for (const int64_t item : members_[static_cast<size_t>(a)])
          if (const double extra = cost(item, b) - cost(item, a); extra < best.cost) best = {extra, item};
      move(a, b) = best;
    }
  }

  std::span<const double> costs_;
  int64_t k_, room_;
  std::vector<std::vector<int64_t>> members_;
  std::vector<int32_t> of_;
  std::vector<Move> moves_;  // [k, k]
};

struct Clustering {
  std::vector<int32_t> of;
  double inertia = infinite;  // less the sum of squares, which all clusterings have
};

class KMeans {
 public:
  KMeans(std::span<const double> gram, int64_t n, int64_t k) : gram_(gram), n_(n), k_(k) {}

  Clustering run(uint64_t seed, int64_t restart) const {
    Clustering best{balanced_assignment(first_costs(seed, restart), n_, k_), infinite};
    best.inertia = inertia(best.of);
    for (int round = 0; round < max_rounds; ++round) {
      Clustering next{balanced_assignment(costs(best.of), n_, k_), infinite};
      next.inertia = inertia(next.of);
      if (!(next.inertia < best.inertia)) break;
      best = std::move(next);
    }
    return best;
  }

 private:
  double at(int64_t i, int64_t j) const { return gram_[static_cast<size_t>(i * n_ + j)]; }
  double squared_distance(int64_t i, int64_t j) const { return at(i, i) - 2 * at(i, j) + at(j, j); }

  // Distances to k vectors, drawn one after the other with a probability that grows with the squared distance to the
  // nearest of those drawn (k-means++).
  std::vector<double> first_costs(uint64_t seed, int64_t restart) const {
    Dice dice(seed, "upcycle clusters " + std::to_string(restart));
    std::vector<double> nearest(static_cast<size_t>(n_), infinite), out(static_cast<size_t>(n_ * k_));
    auto drawn = static_cast<int64_t>(dice.below(static_cast<uint64_t>(n_)));
    for (int64_t c = 0; c < k_; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < n_; ++i) {
        const double squared = std::max(0.0, squared_distance(i, drawn));
        out[static_cast<size_t>(i * k_ + c)] = squared;
        sum += nearest[static_cast<size_t>(i)] = std::min(nearest[static_cast<size_t>(i)], squared);
      }
      double goal = sum * static_cast<double>(dice.below(uint64_t{1} << 53)) * 0x1p-53;
      for (drawn = 0; drawn + 1 < n_ && goal >= nearest[static_cast<size_t>(drawn)]; ++drawn)
        goal -= nearest[static_cast<size_t>(drawn)];
    }
    return out;
  }

  // sums [n, k] of each vector's products with a group's members.
  std::vector<double> sums(const std::vector<int32_t>& of) const {
    std::vector<double> out(static_cast<size_t>(n_ * k_));
    for (int64_t i = 0; i < n_; ++i)
      for (int64_t j = 0; j < n_; ++j) out[static_cast<size_t>(i * k_ + of[static_cast<size_t>(j)])] += at(i, j);
    return out;
  }

  // The square of each group's sum.
  std::vector<double> squares(const std::vector<double>& sums, const std::vector<int32_t>& of) const {
    std::vector<double> out(static_cast<size_t>(k_));
    for (int64_t i = 0; i < n_; ++i) {
      const auto c = static_cast<size_t>(of[static_cast<size_t>(i)]);
      out[c] += sums[static_cast<size_t>(i * k_) + c];
    }
    return out;
  }

  // Squared distances to the means, less each vector's own square.
  std::vector<double> costs(const std::vector<int32_t>& of) const {
    std::vector<double> out = sums(of);
    const std::vector<double> square = squares(out, of);
    const double m = static_cast<double>(n_ / k_);
    for (int64_t i = 0; i < n_; ++i)
      for (int64_t c = 0; c < k_; ++c) {
        double& value = out[static_cast<size_t>(i * k_ + c)];
        value = square[static_cast<size_t>(c)] / (m * m) - 2 * value / m;
      }
    return out;
  }

  double inertia(const std::vector<int32_t>& of) const {
    double sum = 0;
    for (const double square : squares(sums(of), of)) sum -= square / static_cast<double>(n_ / k_);
    return sum;
  }

  std::span<const double> gram_;
  int64_t n_, k_;
};

}  // namespace

std::vector<int32_t> balanced_assignment(std::span<const double> costs, int64_t n, int64_t k) {
  Transport transport(costs, n, k);
  for (int64_t i = 0; i < n; ++i) transport.put(i);
  return std::move(transport).result();
}

std::vector<int32_t> balanced_clusters(std::span<const double> gram, int64_t n, int64_t k, uint64_t seed,
                                       ThreadPool& pool, int64_t restarts) {
  std::vector<Clustering> runs(static_cast<size_t>(restarts));
  const KMeans means(gram, n, k);
  pool.parallel_for(restarts, [&](int64_t r, int) { runs[static_cast<size_t>(r)] = means.run(seed, r); });
  const auto best = std::min_element(runs.begin(), runs.end(),
                                     [](const Clustering& a, const Clustering& b) { return a.inertia < b.inertia; });
  // Numbers by first member.
  std::vector<int32_t> number(static_cast<size_t>(k), -1), out;
  int32_t next = 0;
  for (const int32_t c : best->of) {
    int32_t& mine = number[static_cast<size_t>(c)];
    if (mine < 0) mine = next++;
    out.push_back(mine);
  }
  return out;
}

}  // namespace signalbox::train
