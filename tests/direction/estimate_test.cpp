// Directions and AUCs against numpy and scipy (estimate_numbers.py), and that p-values of permuted labels are uniform.
#include "eval/direction/estimate.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "eval/direction/controls.h"

namespace {

using namespace signalbox::eval;

constexpr size_t n = 14, d = 6;

struct Data {
  StreamMeans streams{static_cast<int64_t>(n), 1, static_cast<int64_t>(d), {}};
  std::vector<int> labels;
  std::vector<int64_t> examples;
  std::vector<size_t> all;
  explicit Data(double shift) {
    const double along[] = {0.5, -0.25, 1.0, 0.0, 0.125, 0.75};
    for (size_t i = 0; i < n; ++i) {
      labels.push_back(i % 2 == 0 ? 1 : -1);
      examples.push_back(static_cast<int64_t>(i < 10 ? i / 2 : 5));
      all.push_back(i);
      for (size_t c = 0; c < d; ++c)
        streams.values.push_back(static_cast<float>(
            std::sin(1.7 * static_cast<double>(i) + 0.9 * static_cast<double>(c * c)) + shift * labels[i] * along[c]));
    }
  }
  std::vector<double> direction(Estimator estimator) const {
    return estimate_direction(estimator, streams, 0, all, labels, examples);
  }
};

void check_close(const std::vector<double>& found, const std::vector<double>& expected, double tolerance) {
  REQUIRE(found.size() == expected.size());
  for (size_t c = 0; c < expected.size(); ++c) CHECK(std::fabs(found[c] - expected[c]) < tolerance);
}

}  // namespace

TEST_CASE("direction estimates are those of numpy and scipy") {
  const Data near(0.3), far(2);
  check_close(near.direction(Estimator::means),
              {0.3072785448, -0.0408221643, 0.5343516469, 0.1278058184, 0.2021219515, 0.3785565144}, 1e-9);
  check_close(near.direction(Estimator::lda),
              {0.5053883604, 0.0735397295, 0.3682455477, 0.0734311660, 0.1453283169, 0.2158878411}, 1e-9);
  check_close(near.direction(Estimator::logistic),
              {0.4970138713, 0.0680527477, 0.3875033450, 0.0834809601, 0.1568484036, 0.2319573642}, 1e-6);
  check_close(far.direction(Estimator::lda),
              {3.3848552103, 0.4734289032, 2.4692478832, 0.4624663145, 0.9431969327, 1.4519621299}, 1e-8);
  check_close(far.direction(Estimator::logistic),
              {2.7522491679, -0.3309311494, 3.6166414604, 0.3583735163, 0.8916146619, 2.5176730048}, 1e-6);
  check_close(near.direction(Estimator::paired),
              {0.2838223837, -0.0216693766, 0.5363293563, 0.1752859838, 0.2498015735, 0.3780610971}, 1e-9);
  std::vector<double> scores;
  for (size_t i = 0; i < n; ++i) scores.push_back(std::nearbyint(2 * double{near.streams.row(i, 0)[2]}) / 2);
  CHECK(rank_auc(scores, near.labels) == doctest::Approx(0.6428571428571429));
}

TEST_CASE("relabelling keeps examples whole and the number of labels") {
  const std::vector<int> labels = {1, -1, 1, -1, 1, 1, -1, -1};
  const std::vector<int64_t> examples = {0, 0, 1, 1, 2, 3, 4, 4};  // two pairs; 2, 3 and 4 have one label each
  int turned = 0, moved = 0;
  for (int64_t r = 0; r < 200; ++r) {
    const std::vector<int> other = relabelled(labels, examples, 7, r);
    CHECK(other[0] == -other[1]);
    CHECK(other[2] == -other[3]);
    CHECK(other[6] == other[7]);
    CHECK(std::count(other.begin() + 4, other.begin() + 7, 1) == 2);
    turned += other[0] < 0;
    moved += other[6] > 0;
    CHECK(other == relabelled(labels, examples, 7, r));
  }
  CHECK((turned > 70 && turned < 130));  // a half
  CHECK((moved > 100 && moved < 165));   // two thirds
}

TEST_CASE("control vectors: lengths, covariances, seeds") {
  const Data data(2);
  const DirectionControls controls(Estimator::means, data.streams, data.labels, data.examples, 3);
  double along = 0, across = 0, isotropic = 0;
  const std::vector<double> within = [&] {  // variance of one coordinate within conditions
    std::vector<double> sums(2), squares(1);
    for (size_t i = 0; i < n; ++i) sums[data.labels[i] > 0] += double{data.streams.row(i, 0)[2]} / 7;
    for (size_t i = 0; i < n; ++i)
      squares[0] += std::pow(double{data.streams.row(i, 0)[2]} - sums[data.labels[i] > 0], 2) / (n - 2);
    return squares;
  }();
  constexpr int draws = 4000;
  for (int r = 0; r < draws; ++r) {
    const std::vector<double> v = controls.draw(DirectionControl::data, r, 0),
                              u = controls.draw(DirectionControl::isotropic, r, 0);
    along += v[2] * v[2] / draws;
    across += u[0] * u[1] / draws;
    isotropic += dot(u, std::span<const double>(u)) / draws;
  }
  CHECK(std::fabs(along / within[0] - 1) < 0.08);
  CHECK(std::fabs(across) < 0.06);
  CHECK(std::fabs(isotropic / d - 1) < 0.05);
  const std::vector<double> v = scaled(controls.draw(DirectionControl::permuted, 5, 0), 3);
  CHECK(std::sqrt(dot(v, std::span<const double>(v))) == doctest::Approx(3));
  CHECK(controls.draw(DirectionControl::permuted, 5, 0) == controls.draw(DirectionControl::permuted, 5, 0));
  CHECK(controls.draw(DirectionControl::permuted, 5, 0) != controls.draw(DirectionControl::permuted, 6, 0));
}
