// Losses and gradients of the rationale model: the small case that is checked by hand, PyTorch in double
// (tests/rationale/factor_goldens.py), and central differences.
#include "train/rationale/factor_losses.h"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "base/error.h"
#include "base/json.h"
#include "tests/support.h"
#include "train/rationale/factor_tensors.h"

namespace {

using namespace signalbox;
using namespace signalbox::train;

struct Case {
  FactorParameters parameters;
  FactorBatch batch;
};

Case stored_case() {
  const auto file = safetensors::File::open(test::source_dir() / "tests/rationale/fixed_factors.safetensors");
  FactorShape shape;
  shape.n_factors = dimension(*file, "W_g", 0, 2);
  shape.d_hidden = dimension(*file, "W_g", 1, 2);
  shape.d_factor = dimension(*file, "f", 1, 3);
  shape.d_target = dimension(*file, "V", 1, 3);
  Case made;
  made.parameters = FactorParameters(shape);
  for (size_t i = 0; i < factor_parameter_names.size(); ++i)
    factor_parameter(made.parameters, i) =
        read_doubles(*file, factor_parameter_names[i], factor_parameter_shape(shape, i));
  made.batch.hidden = read_doubles(*file, "hidden", {-1, shape.d_hidden});
  made.batch.offsets = read_offsets(*file, static_cast<int64_t>(made.batch.hidden.size()) / shape.d_hidden);
  made.batch.target = read_doubles(*file, "target", {made.batch.n_sentences(), shape.d_target});
  return made;
}

FactorForms forms_of(const std::string& name) {
  FactorForms forms;
  if (name == "document") return forms;
  forms.normalize = forms.per_token = true;
  forms.balance = FactorForms::Balance::batch;
  forms.diversity = name == "clusters" ? FactorForms::Diversity::cosine : FactorForms::Diversity::covariance;
  if (name == "repository") forms.sentence = FactorForms::Sentence::infonce;
  return forms;
}

// One sentence of three tokens whose pi is given; f = g = 1, V = v.
FactorLosses by_hand(const std::vector<double>& pi, bool normalize, double v) {
  FactorShape shape;
  shape.n_factors = shape.d_hidden = shape.d_factor = shape.d_target = 2;
  FactorParameters p(shape);
  p.transform = {1, 0, 0, 1, 1, 0, 0, 1};
  p.decoder = {1, 0, 0, 1};
  p.readout = {v, 0, 0, v, v, 0, 0, v};
  FactorBatch batch;
  batch.hidden = {1, 0, 0, 1, 1, 1};
  batch.offsets = {0, 3};
  batch.target = {2.0 / 3, 2.0 / 3};
  batch.pi = pi;
  FactorForms forms;
  forms.normalize = normalize;
  ThreadPool pool(1);
  return factor_losses(p, batch, forms, {}, pool, nullptr, nullptr);
}

double sum_of(const FactorLosses& losses, const FactorLosses& weights) {
  double sum = 0;
  for (size_t i = 0; i < losses.size(); ++i) sum += losses[i] * weights[i];
  return sum;
}

}  // namespace

TEST_CASE("factor losses: the case that is checked by hand") {
  const std::vector<double> pi = {1, 0, 0.5, 0.5, 0, 1};
  const FactorLosses raw = by_hand(pi, false, 1);
  const auto near = [](double x) { return doctest::Approx(x).epsilon(2e-6); };
  CHECK(raw[0] == near(3.555556));
  CHECK(raw[1] == near(1.5));
  CHECK(raw[2] == near(0.693147));
  CHECK(raw[3] == near(0.083333));
  CHECK(raw[4] == near(11.25));
  CHECK(raw[5] == doctest::Approx(0.0));
  CHECK(raw[6] == near(0.5));
  CHECK(by_hand(pi, false, 1.0 / 3)[0] == doctest::Approx(0.0));
  CHECK(by_hand(pi, true, 1)[1] == near(0.888889));
  CHECK(by_hand({1, 0, 1, 0, 0, 1}, true, 0.5)[0] == near(0.013889));
  CHECK(by_hand({0.5, 0.5, 0.5, 0.5, 0.5, 0.5}, true, 0.5)[0] == doctest::Approx(0.0));

  // The same from a file: rows that are distributions, and gradients elsewhere.
  const test::TemporaryDirectory dir;
  const std::filesystem::path file = dir / "pi.safetensors";
  const auto ran = [&](const std::vector<double>& rows, const std::filesystem::path& grad) {
    const std::vector<double> hidden = {1, 0, 0, 1, 1, 1}, target = {2.0 / 3, 2.0 / 3}, one = {1, 0, 0, 1},
                              twice = {1, 0, 0, 1, 1, 0, 0, 1};
    write_tensors(file, "F64",
                  {{"hidden", {3, 2}, &hidden},
                   {"target", {1, 2}, &target},
                   {"pi", {3, 2}, &rows},
                   {"f", {2, 2, 2}, &twice},
                   {"V", {2, 2, 2}, &twice},
                   {"g", {2, 2}, &one}},
                  {{"offsets", {0, 3}}}, {});
    return test::run_command(test::binary() + " rationale losses --fixed " + file.string() + " --grad " +
                             grad.string());
  };
  const test::Ran whole = ran(pi, dir / "grad.safetensors");
  REQUIRE_MESSAGE(whole.code == 0, whole.err);
  CHECK(json::parse(whole.out, "losses").find("token")->real() == near(1.5));
  const test::Ran negative = ran({1, 0, 1.5, -0.5, 0, 1}, dir / "grad.safetensors");
  CHECK(negative.code == 1);
  CHECK(negative.err.find("pi: expected numbers from 0 that sum to 1 in row 1, found -0.5") != std::string::npos);
  CHECK(ran({1, 0, 0.5, 0.5, 0, 0.9}, dir / "grad.safetensors").err.find("in row 2, found the sum 0.9") !=
        std::string::npos);
  std::filesystem::create_directories(dir / "below");
  const test::Ran same = ran(pi, dir / "below/../pi.safetensors");
  CHECK(same.code == 2);
  CHECK(safetensors::File::open(file)->find("pi") != nullptr);
}

TEST_CASE("factor losses and gradients equal PyTorch's in double, with any number of threads") {
  const json::Value golden = json::parse_file(test::source_dir() / "tests/rationale/factor_losses.json");
  const json::Ref ref(golden, "golden");
  const Case made = stored_case();
  FactorLosses weights{};
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = ref.at("weights")[i].number();
  for (const auto& [name, expected] : ref.at("cases").members()) {
    CAPTURE(name);
    FactorGradients gradients, of_threads;
    ThreadPool one(1), three(3);
    const FactorLosses losses =
        factor_losses(made.parameters, made.batch, forms_of(name), weights, one, nullptr, &gradients);
    for (size_t i = 0; i < losses.size(); ++i) {
      CAPTURE(factor_loss_names[i]);
      CHECK(losses[i] == doctest::Approx(expected.at("losses").at(factor_loss_names[i]).number()).epsilon(1e-12));
    }
    const auto compare = [&](const char* tensor, const std::vector<double>& values) {
      CAPTURE(tensor);
      const auto wanted = expected.at("gradients").at(tensor).items();
      REQUIRE(wanted.size() == values.size());
      double worst = 0, largest = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        worst = std::max(worst, std::abs(values[i] - wanted[i].number()));
        largest = std::max(largest, std::abs(wanted[i].number()));
      }
      CHECK(worst <= 1e-12 * largest);
    };
    for (size_t i = 0; i < factor_parameter_names.size(); ++i)
      compare(factor_parameter_names[i], factor_parameter(gradients.parameters, i));
    compare("hidden", gradients.hidden);
    compare("target", gradients.target);
    const FactorLosses again =
        factor_losses(made.parameters, made.batch, forms_of(name), weights, three, nullptr, &of_threads);
    CHECK(again == losses);
    CHECK(of_threads.hidden == gradients.hidden);
    CHECK(of_threads.parameters.transform == gradients.parameters.transform);
  }
}

TEST_CASE("every gradient of every loss equals central differences") {
  Case made = stored_case();
  ThreadPool pool(1);
  for (const bool shared : {false, true}) {
    if (shared) {
      made.parameters.shape.shared = true;
      made.parameters.transform.resize(made.parameters.transform.size() / 3);
    }
    for (const char* name : {"document", "clusters", "repository"})
      for (size_t loss = 0; loss < n_factor_losses; ++loss) {
        CAPTURE(name);
        CAPTURE(factor_loss_names[loss]);
        FactorLosses weights{};
        weights[loss] = 1;
        FactorGradients gradients;
        factor_losses(made.parameters, made.batch, forms_of(name), weights, pool, nullptr, &gradients);
        const auto value = [&] {
          return sum_of(factor_losses(made.parameters, made.batch, forms_of(name), weights, pool, nullptr, nullptr),
                        weights);
        };
        double worst = 0, largest = 1e-3;
        const auto check = [&](std::vector<double>& at, const std::vector<double>& slopes) {
          for (size_t i = 0; i < at.size(); i += 3) {
            const double kept = at[i], step = 1e-4;
            const auto shifted = [&](double by) {
              at[i] = kept + by;
              return value();
            };
            // Fourth order: the rest is far below the tolerance.
            const double slope =
                (8 * (shifted(step) - shifted(-step)) - (shifted(2 * step) - shifted(-2 * step))) / (12 * step);
            at[i] = kept;
            worst = std::max(worst, std::abs(slope - slopes[i]));
            largest = std::max(largest, std::abs(slope));
          }
        };
        for (size_t i = 0; i < factor_parameter_names.size(); ++i)
          check(factor_parameter(made.parameters, i), factor_parameter(gradients.parameters, i));
        check(made.batch.hidden, gradients.hidden);
        check(made.batch.target, gradients.target);
        CHECK(worst <= 1e-6 * largest);
      }
  }
}

TEST_CASE("weights of losses are read by name and by place") {
  const FactorLosses by_name = parse_factor_weights("token=0.5, balance=2", "--weights");
  CHECK(by_name == FactorLosses{0, 0.5, 0, 0, 0, 2, 0});
  CHECK(parse_factor_weights("1,0.5", "--weights") == FactorLosses{1, 0.5});
  for (const char* bad :
       {"", "tokens=1", "1,x", "-1", "1,2,3,4,5,6,7,8", "nan", "sentence=1,sentence=2", "1,sentence=2"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(parse_factor_weights(bad, "--weights"), UsageError);
  }
}
