// Attributions against PyTorch's autograd through a forward with an input for every reader, in double
// (tests/goldens/attribution_goldens.py).
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "base/safetensors.h"
#include "tests/causal/attribution_tables.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;

struct Golden {
  std::shared_ptr<const safetensors::File> file;
  std::vector<std::string> senders, receivers;

  explicit Golden(const std::string& name)
      : file(safetensors::File::open(test::goldens_dir() / name / "attribution.safetensors")),
        senders(names("senders")),
        receivers(names("receivers")) {}

  std::vector<std::string> names(const std::string& key) const {
    const json::Value listed = json::parse(file->metadata().at(key), key);
    std::vector<std::string> found;
    for (const json::Ref& one : json::Ref(listed, key).items()) found.push_back(one.string());
    return found;
  }
  template <class T>
  std::vector<T> values(const std::string& name) const {
    const auto& info = file->at(name);
    std::vector<T> out(info.elements());
    std::memcpy(out.data(), file->data(info), out.size() * sizeof(T));
    return out;
  }
};

// The row of a node in a table: "|layer|point|unit".
std::string row_of(const std::string& node) {
  if (node == "embed") return "||embed|";
  const size_t dot = node.find('.');
  const std::string layer = "|" + node.substr(1, dot - 1) + "|", part = node.substr(dot + 1);
  if (part == "attn.bias") return layer + "attn.out|bias";
  if (part == "shared") return layer + "shared.out|";
  if (part == "mlp") return layer + "mlp.out|";
  return layer + (part[0] == 'H' ? "attn.z|" : "expert.contribution|") + part.substr(1);
}

void compare(const std::map<std::string, double>& got, const std::map<std::string, double>& want, double tolerance) {
  double most = 1e-30;
  for (const auto& [key, value] : want) most = std::max(most, std::fabs(value));
  for (const auto& one : want) {
    const std::string& key = one.first;
    const double value = one.second;
    CAPTURE(key);
    const auto found = got.find(key);
    // What is not in the table did not change.
    CHECK(std::fabs((found == got.end() ? 0 : found->second) - value) < tolerance * most);
  }
  for (const auto& one : got) {
    const std::string& key = one.first;
    const double value = one.second;
    CAPTURE(key);
    CHECK(want.count(key) + (value == 0) > 0);
  }
}

std::map<std::string, double> edges(const Golden& golden, const std::string& name) {
  const std::vector<float> matrix = golden.values<float>(name);
  std::map<std::string, double> found;
  for (size_t v = 0; v < golden.receivers.size(); ++v)
    for (size_t u = 0; u < golden.senders.size(); ++u)
      if (const float score = matrix[v * golden.senders.size() + u]; score != 0)
        found[golden.senders[u] + ">" + golden.receivers[v]] = static_cast<double>(score);
  return found;
}

std::map<std::string, double> edges(const test::AttributionRun& run) {
  std::map<std::string, double> found;
  for (const auto& [key, score] : run.scores) found[key.substr(key.rfind('|') + 1)] = score;
  return found;
}

}  // namespace

TEST_CASE("causal attribute: edges, nodes and gains of every family equal autograd's") {
  for (const std::string name : test::tiny_families) {
    CAPTURE(name);
    const Golden golden(name);
    test::Attributions attributions(name);
    const size_t n = 10;

    auto request = attributions.request(AttributionMethod::eap, InPlace::pairs);
    compare(edges(attributions.run(request)), edges(golden, "eap"), 1e-4);
    request.method = AttributionMethod::eap_ig;
    request.steps = 4;
    request.rule = PathRule::left;
    compare(edges(attributions.run(request)), edges(golden, "eap_ig"), 1e-4);

    request.method = AttributionMethod::atp;
    for (const bool drops : {false, true}) {
      request.drops = drops;
      const std::vector<float> atp = golden.values<float>(drops ? "drops" : "atp");
      std::map<std::string, double> want;
      for (size_t t = 0; t < n; ++t)
        for (size_t u = 0; u < golden.senders.size(); ++u)
          if (const float score = atp[t * golden.senders.size() + u]; score != 0)
            want[std::to_string(t) + row_of(golden.senders[u])] = static_cast<double>(score);
      compare(attributions.run(request).scores, want, 1e-4);
    }

    const test::AttributionRun gain = attributions.run(attributions.request(AttributionMethod::gain, InPlace::zero));
    const std::vector<float> gains = golden.values<float>("gain");
    const std::vector<int32_t> layers = attributions.setup.session.model.moe_layers();
    const size_t n_experts = gains.size() / (n * layers.size());
    double most = 0, apart = 0;
    // The last record of the table is the corrupt one; the clean one is read from its rows.
    const CsvTable table = CsvTable::parse(gain.table, "attribution.csv");
    size_t compared = 0;
    for (size_t row = 0; row < table.n_rows(); ++row) {
      if (table.text(row, 0) != "x" || table.text(row, 3) != "expert.gain") continue;
      const auto t = static_cast<size_t>(table.integer(row, 1)), e = static_cast<size_t>(table.integer(row, 4));
      const auto l = static_cast<size_t>(
          std::find(layers.begin(), layers.end(), static_cast<int32_t>(table.integer(row, 2))) - layers.begin());
      const auto value = static_cast<double>(gains[(t * layers.size() + l) * n_experts + e]);
      most = std::max(most, std::fabs(value));
      apart = std::max(apart, std::fabs(value - table.number(row, 5)));
      ++compared;
    }
    CHECK(compared == gains.size());
    CHECK(apart < 1e-4 * most);
  }
}

TEST_CASE("causal attribute: integrated gradients with held routes equal autograd's, and end in one jump") {
  for (const std::string name : test::tiny_families) {
    CAPTURE(name);
    const Golden golden(name);
    test::Attributions attributions(name);
    auto request = attributions.request(AttributionMethod::ig, InPlace::pairs);
    request.steps = 6;
    request.holds_routes = true;
    const test::AttributionRun run = attributions.run(request);
    const std::vector<double> want = golden.values<double>("held"), ends = golden.values<double>("metric");
    double most = 0;
    for (const double x : want) most = std::max(most, std::fabs(x));
    for (size_t t = 0; t < want.size(); ++t)
      CHECK(std::fabs(run.at(std::to_string(t) + "||embed|") - want[t]) < 1e-4 * most);
    CHECK(run.at("||path|") == doctest::Approx(ends[1] - ends[0]).epsilon(1e-4));
    CHECK(run.at("||router.ids|held") == doctest::Approx(ends[1] - ends[2]).epsilon(1e-4));
  }
}
