// "layers" and "experts" as written; what they mean in a model is edit_targets.cpp's business.
#include <algorithm>
#include <charconv>

#include "probes/edit_spec.h"

namespace signalbox::probes {

namespace {

constexpr int32_t max_index = 1 << 20;  // far above any model; keeps sums of indices in range

// A canonical decimal number ("7", not "07" or "+7") at the start of `text`, which moves past it.
std::optional<int32_t> take_index(std::string_view& text) {
  int32_t value = 0;
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  const size_t length = static_cast<size_t>(end - text.data());
  if (failed != std::errc() || text[0] == '-' || (length > 1 && text[0] == '0') || value > max_index)
    return std::nullopt;
  text.remove_prefix(length);
  return value;
}

std::vector<int32_t> parse_experts(const json::Ref& list) {
  std::vector<int32_t> experts;
  for (const json::Ref& item : list.items()) {
    const int32_t expert = static_cast<int32_t>(item.integer(0, max_index));
    experts.push_back(expert);
  }
  std::vector<int32_t> sorted = experts;
  std::sort(sorted.begin(), sorted.end());
  if (auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end())
    list.fail("expected each expert once, found " + std::to_string(*twice) + " twice");
  return experts;
}

}  // namespace

std::string layer_ranges(const std::vector<int32_t>& layers) {
  std::string out;
  for (size_t i = 0; i < layers.size();) {
    size_t last = i;
    while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1) ++last;
    out += (out.empty() ? "" : ",") + std::to_string(layers[i]);
    if (last > i) out += "-" + std::to_string(layers[last]);
    i = last + 1;
  }
  return out;
}

LayerList LayerList::parse(const json::Ref& ref) {
  LayerList list;
  std::string_view text = ref.string();
  if (text == "all") return list;
  list.all = false;
  auto fail = [&] { ref.fail_type("\"all\" or layers such as \"3-20,25\""); };
  while (true) {
    Item item;
    auto first = take_index(text);
    if (!first) fail();
    item.first = item.last = *first;
    if (text.starts_with('-')) {
      text.remove_prefix(1);
      auto last = take_index(text);
      if (!last) fail();
      item.last = *last;
      item.range = true;
      if (item.last < item.first)
        ref.fail("expected a range that ascends, found \"" + std::to_string(item.first) + "-" +
                 std::to_string(item.last) + "\"");
    }
    for (const Item& other : list.items)
      if (item.first <= other.last && other.first <= item.last)
        ref.fail("expected each layer once, found " + std::to_string(std::max(item.first, other.first)) + " twice");
    list.items.push_back(item);
    if (text.empty()) return list;
    if (!text.starts_with(',')) fail();
    text.remove_prefix(1);
  }
}

ExpertList ExpertList::parse(const json::Ref& ref, const std::filesystem::path& base_dir) {
  ExpertList experts;
  if (ref.value().type() == json::Type::array) {
    experts.kind = Kind::list;
    experts.list = parse_experts(ref);
    return experts;
  }
  if (ref.value().type() != json::Type::object)
    ref.fail_type("a list of experts, an object of lists by layer, or {\"from\": FILE, \"top\": N}");
  if (!ref.find("from")) {
    experts.kind = Kind::by_layer;
    for (const auto& [key, list] : ref.members()) {
      std::string_view text = key;
      auto layer = take_index(text);
      if (!layer || !text.empty()) ref.fail("expected layers as keys, or \"from\", found the key \"" + key + "\"");
      experts.by_layer.emplace_back(*layer, parse_experts(list));
    }
    std::sort(experts.by_layer.begin(), experts.by_layer.end());
    return experts;
  }
  ref.reject_unknown({"from", "top", "sign", "per_layer", "by", "q_below", "metric", "condition", "domain"});
  experts.kind = Kind::ranking;
  Ranking& ranking = experts.ranking;
  const std::string& file = ref.at("from").string();
  if (file.empty()) ref.at("from").fail_type("a file");
  ranking.file = base_dir / file;
  ranking.top = ref.at("top").integer(1, int64_t{1} << 40);
  if (auto sign = ref.find("sign")) {
    const std::string& text = sign->string();
    if (text == "+")
      ranking.sign = Ranking::Sign::plus;
    else if (text == "-")
      ranking.sign = Ranking::Sign::minus;
    else if (text == "both")
      ranking.sign = Ranking::Sign::both;
    else
      sign->fail_type("\"+\", \"-\" or \"both\"");
  }
  if (auto per_layer = ref.find("per_layer")) ranking.per_layer = per_layer->integer(1, int64_t{1} << 40);
  if (auto by = ref.find("by")) {
    ranking.by = by->string();
    for (std::string_view other : {"", "layer", "expert", "p", "q", "t_p", "p_norm", "p_update", "p_direct", "q_norm",
                                   "q_update", "q_direct", "q_effect"})
      if (ranking.by == other) by->fail_type("a column that measures an effect (for significance there is q_below)");
  }
  for (const auto& [key, rows] : {std::pair("metric", &ranking.rows.metric),
                                  {"condition", &ranking.rows.condition},
                                  {"domain", &ranking.rows.domain}})
    if (auto text = ref.find(key)) {
      *rows = text->string();
      if ((*rows)->empty()) text->fail_type("a text, or no key for all records");
    }
  if (auto below = ref.find("q_below")) {
    ranking.q_below = below->number();
    if (*ranking.q_below <= 0 || *ranking.q_below > 1) below->fail_type("a number above 0 and up to 1");
  }
  return experts;
}

}  // namespace signalbox::probes
