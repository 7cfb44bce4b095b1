#include "tools/signalbox/two_models.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <sstream>

#include "eval/data/examples.h"
#include "tools/builtin/builtin_files.h"

namespace signalbox::tools {

namespace {

CommonOptions with_model(CommonOptions options, const std::string& model) {
  options.model = model;
  return options;
}

int32_t layer_number(const std::string& text, const std::string& item) {
  int32_t value = -1;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size() || value < 0)
    throw UsageError("--layers", "expected same, every, or items like 3, 3-5 and 3:7, found \"" + item + "\"");
  return value;
}

void check_layer(int32_t layer, const ModelShape& shape, const char* which) {
  if (layer < shape.n_layers() && shape.layers[static_cast<size_t>(layer)].moe) return;
  throw UsageError("--layers", std::string("expected layers of the ") + which + " model that have a router, found " +
                                   std::to_string(layer));
}

}  // namespace

OpenedModel::OpenedModel(const CommonOptions& options, const std::string& model)
    : resolved(resolve_model(model, builtin_files())), session(open_session(with_model(options, model))) {
  if (session.model.moe_layers().empty()) throw Error(session.path, "expected a model with experts, found none");
  // A device with memory of its own has its own copy of the weights.
  shared = session.backend->shares_host_memory();
  if (!shared && !options.adapters.empty())  // what the checkpoint gives below has none
    throw UsageError("--adapter", "expected --device cpu beside it, found " + session.backend->name());
  if (!shared) loaded = load_model(resolved);
}

Basis BasisFlags::basis() const {
  for (size_t i = 0; i < std::size(basis_names); ++i)
    if (align == basis_names[i]) return static_cast<Basis>(i);
  return Basis::automatic;
}

void BasisFlags::check(bool ridge_given) const {
  if (ridge_given && (align == "none" || align == "procrustes"))
    throw UsageError("--ridge", "expected --align ridge or auto beside it, found " + align);
}

CLI::Option* add_basis_options(CLI::App& app, BasisFlags& flags) {
  app.add_option("--align", flags.align,
                 "how the two models' dimensions are matched: none | procrustes | ridge | auto (ridge between widths, "
                 "else none or procrustes, whichever is nearer on tokens held out)")
      ->check(one_of({std::begin(basis_names), std::end(basis_names)}))
      ->capture_default_str();
  return app
      .add_option("--ridge", flags.ridge, "of the ridge maps: the penalty, as a share of the states' mean square")
      ->check(in_range(1e-12, 1e12))
      ->capture_default_str();
}

std::vector<std::pair<int32_t, int32_t>> layer_pairs(const std::string& text, const ModelShape& a,
                                                     const ModelShape& b) {
  const std::vector<int32_t> of_a = a.moe_layers(), of_b = b.moe_layers();
  std::vector<std::pair<int32_t, int32_t>> out;
  if (text == "same") {
    for (const int32_t layer : of_a)
      if (std::binary_search(of_b.begin(), of_b.end(), layer)) out.emplace_back(layer, layer);
    if (out.empty())
      throw UsageError("--layers same",
                       "expected a layer that has a router in both models, found none (3:7 names two)");
    return out;
  }
  if (text == "every") {
    for (const int32_t layer : of_a)
      for (const int32_t other : of_b) out.emplace_back(layer, other);
    return out;
  }
  std::istringstream items(text);
  for (std::string item; std::getline(items, item, ',');) {
    const size_t colon = item.find(':'), dash = item.find('-');
    if (colon != std::string::npos) {
      out.emplace_back(layer_number(item.substr(0, colon), item), layer_number(item.substr(colon + 1), item));
      continue;
    }
    const int32_t first = layer_number(item.substr(0, dash), item),
                  last = dash == std::string::npos ? first : layer_number(item.substr(dash + 1), item);
    if (last < first) throw UsageError("--layers", "expected a range that does not fall, found \"" + item + "\"");
    for (int32_t layer = first; layer <= last; ++layer) out.emplace_back(layer, layer);
  }
  if (out.empty()) throw UsageError("--layers", "expected same, every, or items like 3, 3-5 and 3:7, found none");
  for (size_t i = 0; i < out.size(); ++i) {
    check_layer(out[i].first, a, "first");
    check_layer(out[i].second, b, "second");
    if (std::find(out.begin(), out.begin() + static_cast<int64_t>(i), out[i]) != out.begin() + static_cast<int64_t>(i))
      throw UsageError("--layers", "expected each two layers once, found " + std::to_string(out[i].first) + " and " +
                                       std::to_string(out[i].second) + " again");
  }
  return out;
}

std::vector<int64_t> example_labels(const std::vector<Record>& records) {
  std::vector<int64_t> out;
  for (const size_t example : independent_examples(records)) out.push_back(static_cast<int64_t>(example));
  return out;
}

json::Value about_two(const CommonOptions& options, const std::string& schema, const OpenedModel& a, const char* name_a,
                      const OpenedModel& b, const char* name_b, int argc, char** argv) {
  json::Value out = json::Value::object(), arguments = json::Value::array();
  for (int i = 0; i < argc; ++i) arguments.push_back(argv[i]);
  out.set("schema", schema).set("signalbox_version", SIGNALBOX_VERSION).set("argv", std::move(arguments));
  for (const auto& [model, name] : {std::pair(&a, name_a), std::pair(&b, name_b)})
    out.set(name, json::Value::object().set("model", model->session.path).set("model_hash", model->session.model_hash));
  out.set("device", a.session.backend->name()).set("isa", a.session.backend->isa());
  return out.set("numerics", a.session.numerics).set("seed", options.seed);
}

}  // namespace signalbox::tools
