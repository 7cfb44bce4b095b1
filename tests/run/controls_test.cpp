// Controls: the same edits on other experts of the same layers, drawn uniformly, by usage, or from the bottom; and the
// list of interventions of a run.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "eval/experiment/interventions.h"
#include "tests/run/experiment_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

// The model of all tests here: sample_shape(), 8 experts in each of the layers 1 to 5.
NamedExperts named_of(const std::string& edits, const std::filesystem::path& base_dir = ".") {
  const json::Value value = quoted_json("[" + edits + "]", "S.json");
  return NamedExperts(json::Ref(value, "S.json", "edits"), base_dir, sample_shape());
}

std::string deactivate(const std::string& experts, const std::string& more = "") {
  return "{'op': 'deactivate', 'mode': 'ban', 'experts': " + experts + more + "}";
}

// Experts of one layer that a replacement gives, in the order of `experts`.
std::vector<int32_t> given(const Replacement& replacement, size_t layer, const std::vector<size_t>& experts) {
  std::vector<int32_t> out;
  for (size_t e : experts) out.push_back(replacement[layer][e]);
  return out;
}

std::vector<int32_t> sorted(std::vector<int32_t> list) {
  std::sort(list.begin(), list.end());
  return list;
}

// Sum of (observed - expected)^2 / expected over `cells` equally likely outcomes.
double chi_square(const std::map<std::vector<int32_t>, int64_t>& counts, double draws, double cells) {
  double sum = 0;
  for (const auto& [outcome, n] : counts) sum += (n - draws / cells) * (n - draws / cells) / (draws / cells);
  return sum + (cells - static_cast<double>(counts.size())) * draws / cells;  // outcomes never drawn
}

std::vector<PlannedIntervention> plan_of_spec(const std::string& more, uint64_t seed = 0, const UsageTable& usage = {},
                                              const std::map<std::string, std::filesystem::path>& files = {},
                                              const std::filesystem::path& base_dir = ".") {
  ExperimentSpec spec = spec_of(more, base_dir);
  spec.seeds[0] = seed;
  return plan_interventions(spec, all_interventions(spec), sample_shape(), {files, usage});
}

std::string names_of(const std::vector<PlannedIntervention>& planned) {
  std::string text;
  for (const PlannedIntervention& one : planned) text += (text.empty() ? "" : " ") + one.name;
  return text;
}

// A usage of 8 experts for layers 1 to 5.
UsageTable usage_of(const std::vector<double>& counts) {
  UsageTable usage(6, counts);
  usage[0].clear();
  return usage;
}

}  // namespace

TEST_CASE("controls: random ones keep the layers and the counts, and avoid what is named") {
  const NamedExperts named = named_of(deactivate("{'2': [4, 1, 6], '5': [0]}"));
  const std::vector<Replacement> drawn = named.random(7, "off", 50);
  REQUIRE(drawn.size() == 50);
  for (const Replacement& r : drawn) {
    const std::vector<int32_t> two = given(r, 2, {4, 1, 6}), five = given(r, 5, {0});
    const std::set<int32_t> distinct(two.begin(), two.end());
    CHECK(distinct.size() == 3);
    for (int32_t e : {1, 4, 6, -1}) CHECK_FALSE(distinct.contains(e));
    CHECK(five[0] >= 1);
    CHECK(std::count(r[2].begin(), r[2].end(), -1) == 5);
    CHECK(std::count(r[3].begin(), r[3].end(), -1) == 8);
    CHECK(r[0].empty());
  }
}

TEST_CASE("controls: a draw depends on seed, intervention and number, and on nothing else") {
  const NamedExperts named = named_of(deactivate("{'1': [0, 1], '2': [0, 1], '3': [0, 1], '4': [0, 1], '5': [0, 1]}"));
  const std::vector<Replacement> drawn = named.random(7, "off", 20);
  const Replacement& one = drawn[3];
  CHECK(drawn == named.random(7, "off", 20));
  CHECK(one == named.random(7, "off", 4)[3]);  // however many follow
  CHECK(one != named.random(8, "off", 4)[3]);
  CHECK(one != named.random(7, "on", 4)[3]);
  CHECK(named.frequency_matched(usage_of({1, 2, 3, 4, 5, 6, 7, 8}), 7, "off", 4)[3] != one);
  // Layers are drawn apart: what is named elsewhere changes nothing.
  CHECK(named_of(deactivate("{'3': [0, 1]}")).random(7, "off", 1)[0][3] == drawn[0][3]);
  std::set<std::vector<int32_t>> layers;
  for (size_t l = 1; l < 6; ++l) layers.insert(one[l]);
  CHECK(layers.size() > 1);
  // Twenty controls of five layers differ from each other.
  CHECK(std::set<Replacement>(drawn.begin(), drawn.end()).size() == 20);
}

TEST_CASE("controls: random ones are uniform") {
  // Two of eight are named: 6 * 5 ordered pairs of the others, all equally likely. 66.15 is the 1 - 1e-4 quantile of
  // chi-square with 29 degrees of freedom (scipy.stats.chi2.ppf).
  const NamedExperts two = named_of(deactivate("{'2': [1, 4]}"));
  std::map<std::vector<int32_t>, int64_t> counts;
  for (uint64_t i = 0; i < 6000; ++i) ++counts[given(two.random(i, "off", 1)[0], 2, {1, 4})];
  CHECK(counts.size() == 30);
  CHECK(chi_square(counts, 6000, 30) < 66.15);

  // Six are named: both others are always taken, with 4 of the 6 named: 15 sets. Each named expert is as likely to get
  // one from outside: 6 places. The same quantile at 14 and at 5 degrees of freedom.
  const NamedExperts six = named_of(deactivate("{'2': [0, 1, 2, 3, 4, 5]}"));
  std::map<std::vector<int32_t>, int64_t> sets, place;
  for (uint64_t i = 0; i < 6000; ++i) {
    const std::vector<int32_t> drawn = given(six.random(i, "off", 1)[0], 2, {0, 1, 2, 3, 4, 5});
    const std::vector<int32_t> set = sorted(drawn);
    CHECK((set[4] == 6 && set[5] == 7));
    ++sets[set];
    ++place[{static_cast<int32_t>(std::find(drawn.begin(), drawn.end(), 6) - drawn.begin())}];
  }
  CHECK(sets.size() == 15);
  CHECK(chi_square(sets, 6000, 15) < 42.58);
  CHECK(chi_square(place, 6000, 6) < 25.74);
}

// [controls] what is run, as edits; all must differ.
std::vector<std::string> texts_of(const NamedExperts& named, const std::vector<Replacement>& replacements) {
  std::vector<std::string> out;
  for (const Replacement& one : replacements)
    out.push_back(json::dump(*named.replaced(one).items()[0].find("experts")));
  CHECK(std::set<std::string>(out.begin(), out.end()).size() == out.size());
  return out;
}

TEST_CASE("controls: random ones are different interventions, and all of them where there are no more") {
  // Four of eight: the other four are the only set.
  const NamedExperts half = named_of(deactivate("{'2': [1, 4, 0, 3]}"));
  CHECK(half.n_random() == 1);
  CHECK(texts_of(half, half.random(0, "off", 20)) == std::vector<std::string>{R"({"2":[2,5,6,7]})"});
  CHECK(half.n_shared() == 0);
  // One of eight: seven.
  const NamedExperts one = named_of(deactivate("{'2': [3]}"));
  CHECK(one.n_random() == 7);
  CHECK(texts_of(one, one.random(5, "off", 20)) ==
        std::vector<std::string>{R"({"2":[0]})", R"({"2":[1]})", R"({"2":[2]})", R"({"2":[4]})", R"({"2":[5]})",
                                 R"({"2":[6]})", R"({"2":[7]})"});
  CHECK(texts_of(one, one.random(5, "off", 7)).size() == 7);
  // Six of the seven are drawn, without repetition.
  CHECK(texts_of(one, one.random(5, "off", 6)).size() == 6);
  // Five of eight: the three others with two of the five.
  const NamedExperts most = named_of(deactivate("{'2': [0, 1, 2, 3, 4]}"));
  CHECK(most.n_random() == 10);
  CHECK(most.n_shared() == 2);
  CHECK(texts_of(most, most.random(0, "off", 20))[0] == R"({"2":[0,1,5,6,7]})");
  CHECK(most.random(0, "off", 20).size() == 10);
  CHECK(most.random(0, "off", 9).size() == 9);
  // Two layers: every set of one with every set of the other.
  const NamedExperts layers = named_of(deactivate("{'2': [3], '4': [0, 1, 2, 3]}"));
  CHECK(layers.n_random() == 7);
  CHECK(named_of(deactivate("{'2': [3], '4': [1, 2]}")).n_random() == 7 * 15);
  CHECK(named_of(deactivate("{'1': [0, 1], '2': [0, 1], '3': [0, 1], '4': [0, 1], '5': [0, 1]}")).n_random() ==
        15 * 15 * 15 * 15 * 15);
}

TEST_CASE("controls: what counts as different is what is run") {
  const auto n = [](const std::string& edits) {
    const NamedExperts named = named_of(edits);
    const std::vector<Replacement> all = named.random(0, "off", 10000);
    CHECK(static_cast<int64_t>(all.size()) == named.n_random());
    return named.n_random();
  };
  const std::string force = "{'op': 'activate', 'mode': 'force', 'experts': {'2': [7]}}";
  CHECK(n(deactivate("{'2': [1, 4]}")) == 15);
  // The same two experts in two edits that follow each other and do the same.
  CHECK(n(deactivate("{'2': [1]}") + ", " + deactivate("{'2': [4]}")) == 15);
  CHECK(n(deactivate("{'2': [1, 4]}") + ", " + deactivate("{'2': [4]}")) == 15);
  // One is banned and the other forced; or they are banned for different tokens.
  CHECK(n(deactivate("{'2': [1]}") + ", " + force) == 30);
  CHECK(n(deactivate("{'2': [1]}") + ", " + deactivate("{'2': [4]}", ", 'tokens': {'phase': 'given'}")) == 30);
  // A bias twice is not a bias once, a ban is.
  const std::string bias = "{'op': 'deactivate', 'mode': 'bias', 'by': 1, 'experts': ";
  CHECK(n(bias + "{'2': [1, 4]}}, " + bias + "{'2': [4]}}") == 30);
  // Slots have an order.
  CHECK(n("{'op': 'misroute', 'policy': 'fixed', 'experts': [1, 4], 'layers': '2'}") == 30);
  // Three roles: two banned, one forced, one scaled, of the four others: 4! / 2!.
  CHECK(n(deactivate("{'2': [0, 1]}") + ", {'op': 'activate', 'mode': 'force', 'experts': {'2': [2]}}, {'op': "
                                        "'scale_expert', 'by': 0, 'experts': {'2': [3]}}") == 12);
  // All are named: the ways to exchange two roles, but for the one that is named.
  CHECK(n(deactivate("{'2': [0, 1, 2, 3, 4, 5, 6]}") + ", " + force) == 7);
}

TEST_CASE("controls: use of the named and of their controls") {
  // 40 selections of 2 experts a token: 20 tokens.
  const UsageTable usage = usage_of({10, 8, 6, 5, 4, 3, 2, 2});
  const NamedExperts named = named_of(deactivate("{'2': [0, 2], '3': [1]}"));
  CHECK(named.use(usage) == doctest::Approx((10 + 6 + 8) / 3.0 / 20));
  const Replacement bottom = named.bottom(usage);
  CHECK(named.use(usage, &bottom) == doctest::Approx(2 / 20.0));
  CHECK(std::isnan(named.use(usage_of({0, 0, 0, 0, 0, 0, 0, 0}))));
  const auto planned =
      plan_of_spec(entries("{'name': 'off', 'edits': [" + deactivate("{'2': [0, 2], '3': [1]}") + "]}") +
                       ", 'controls': {'frequency_matched': 3, 'bottom': true}",
                   0, usage);
  CHECK(std::isnan(planned[0].use));
  CHECK(planned[1].use == doctest::Approx(0.4));
  CHECK(planned[2].use < 0.4);
  CHECK(planned[5].use == doctest::Approx(0.1));
}

TEST_CASE("controls: where all experts of a layer are named, so are those of the control") {
  const NamedExperts all = named_of(deactivate("[0, 1, 2, 3, 4, 5, 6, 7]", ", 'layers': '2'"));
  const UsageTable usage = usage_of({1, 2, 3, 4, 5, 6, 7, 8});
  std::vector<int32_t> row = all.bottom(usage)[2];
  CHECK(sorted(row) == std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7});
  // That is the same intervention again, and no control.
  CHECK(all.same(all.bottom(usage)));
  CHECK(all.n_random() == 0);
  CHECK(all.random(0, "x", 20).empty());
  CHECK(all.frequency_matched(usage, 0, "x", 20).empty());
  // Beside another layer it is one.
  const NamedExperts beside = named_of(deactivate("{'2': [0, 1, 2, 3, 4, 5, 6, 7], '3': [0]}"));
  CHECK(beside.random(0, "x", 20).size() == 7);
  row = beside.random(0, "x", 20)[0][2];
  CHECK(sorted(row) == std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7});
  row = beside.frequency_matched(usage, 0, "x", 2)[0][2];
  CHECK(sorted(row) == std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(names_of(plan_of_spec(entries("{'name': 'off', 'edits': [" + deactivate("[0, 1, 2, 3, 4, 5, 6, 7]") + "]}") +
                                  ", 'controls': true",
                              0, usage)) == "baseline off");
}

TEST_CASE("controls: edits of one intervention keep what they share and what they do not") {
  const NamedExperts named =
      named_of(deactivate("{'2': [1, 4]}") + ", " + deactivate("[4, 1]", ", 'layers': '2'") +
               ", {'op': 'activate', 'mode': 'force', 'experts': {'2': [3]}}, {'op': 'top_k', 'k': 1, 'layers': '2'}");
  for (const Replacement& r : named.random(0, "off", 20)) {
    const json::Value edits = named.replaced(r);
    const std::string a = std::to_string(r[2][1]), b = std::to_string(r[2][4]), c = std::to_string(r[2][3]);
    CHECK(a != b);
    CHECK(a != c);
    CHECK(b != c);
    CHECK(json::dump(edits) == R"([{"op":"deactivate","mode":"ban","experts":{"2":[)" + a + "," + b +
                                   R"(]}},{"op":"deactivate","mode":"ban","experts":{"2":[)" + b + "," + a +
                                   R"(]}},{"op":"activate","mode":"force","experts":{"2":[)" + c +
                                   R"(]}},{"op":"top_k","k":1,"layers":"2"}])");
    CHECK_NOTHROW(EditPlan::parse(json::Ref(edits, "control"), ".", sample_shape(), 0));
  }
}

TEST_CASE("controls: lists, rankings and points become experts by layer") {
  TemporaryDirectory dir;
  write_file(dir / "rd.csv", "layer,expert,rd\n1,0,0.5\n1,1,0.1\n3,7,0.4\n3,6,0.45\n");
  NamedExperts named = named_of(deactivate("{'from': 'rd.csv', 'top': 3}", ", 'weights': 'hole'"), dir.path());
  const Replacement r = named.random(0, "off", 1)[0];
  CHECK(json::dump(named.replaced(r)) == R"([{"op":"deactivate","mode":"ban","experts":{"1":[)" +
                                             std::to_string(r[1][0]) + R"(],"3":[)" + std::to_string(r[3][6]) + "," +
                                             std::to_string(r[3][7]) + R"(]},"weights":"hole"}])");
  named = named_of("{'op': 'ablate', 'point': 'layer.2.expert.out', 'experts': [3, 5], 'value': 'zero'}");
  const Replacement point = named.random(0, "off", 1)[0];
  const json::Value edits = named.replaced(point);
  CHECK(json::dump(edits) == R"([{"op":"ablate","point":"layer.2.expert.out","experts":[)" +
                                 std::to_string(point[2][3]) + "," + std::to_string(point[2][5]) +
                                 R"(],"value":"zero"}])");
  CHECK_NOTHROW(EditPlan::parse(json::Ref(edits, "control"), ".", sample_shape(), 0));
  CHECK(named_of("{'op': 'top_k', 'k': 1}").none());
  CHECK(named_of("{'op': 'ablate', 'point': 'expert.out', 'experts': [], 'value': 'zero'}").none());
  CHECK(error_of([&] { named_of(deactivate("{'2': [8]}")); }) ==
        "S.json: edits[0].experts: expected experts below 8 in layer 2, found 8");
}

TEST_CASE("controls: frequency-matched ones are among the five of nearest usage") {
  const UsageTable usage = usage_of({100, 0, 10, 20, 30, 40, 50, 110});
  // Of 100: 7 (10 away), 6 (50), 5 (60), 4 (70), 3 (80); 2 and 1 are too far.
  const NamedExperts one = named_of(deactivate("{'2': [0]}"));
  std::map<std::vector<int32_t>, int64_t> counts;
  for (uint64_t i = 0; i < 5000; ++i) ++counts[given(one.frequency_matched(usage, i, "off", 1)[0], 2, {0})];
  CHECK(counts.size() == 5);
  CHECK_FALSE(counts.contains({1}));
  CHECK_FALSE(counts.contains({2}));
  CHECK(chi_square(counts, 5000, 5) < 23.51);  // 1 - 1e-4 at 4 degrees of freedom (scipy)
  // Distinct, outside, and a function of the key.
  const NamedExperts three = named_of(deactivate("{'2': [0, 7, 6]}"));
  const std::vector<Replacement> matched = three.frequency_matched(usage, 3, "off", 20);
  CHECK(matched.size() == 10);  // three of the five outside
  CHECK(texts_of(three, matched).size() == 10);
  for (const Replacement& replacement : matched) {
    const std::vector<int32_t> drawn = given(replacement, 2, {0, 7, 6});
    CHECK(std::set<int32_t>(drawn.begin(), drawn.end()).size() == 3);
    for (int32_t e : drawn) CHECK((e >= 1 && e <= 5));
  }
  CHECK(one.frequency_matched(usage, 3, "off", 20).size() == 5);
  CHECK(matched == three.frequency_matched(usage, 3, "off", 20));
  CHECK(error_of([&] { one.frequency_matched({}, 0, "x", 1); }) ==
        "controls: expected the usage of 8 experts in layer 2, found that of 0");
}

TEST_CASE("controls: the bottom of a ranking, and the least used") {
  TemporaryDirectory dir;
  write_file(
      dir / "rd.csv",
      "layer,expert,rd,other\n2,0,0.9,1\n2,1,-0.1,\n2,2,0.05,5\n2,3,0.05,-2\n2,4,-0.8,0\n2,5,0.3,4\n3,0,0.7,1\n");
  // By |rd| from below: 2 and 3 (0.05 each), 1 (0.1), 5 (0.3); 6 and 7 have no value.
  NamedExperts named = named_of(
      deactivate("{'from': 'rd.csv', 'top': 2, 'sign': 'both', 'per_layer': 2}", ", 'layers': '2'"), dir.path());
  CHECK(given(named.bottom({}), 2, {0, 4}) == std::vector<int32_t>{2, 3});
  named = named_of(deactivate("{'from': 'rd.csv', 'top': 1, 'by': 'other', 'sign': '-'}"), dir.path());
  CHECK(given(named.bottom({}), 2, {3}) == std::vector<int32_t>{4});
  // Layer 3 has one value, that of the named expert; the others come by index.
  named = named_of(deactivate("{'from': 'rd.csv', 'top': 1}", ", 'layers': '3'"), dir.path());
  CHECK(given(named.bottom({}), 3, {0}) == std::vector<int32_t>{1});
  const UsageTable usage = usage_of({5, 1, 0, 3, 0, 9, 7, 8});
  named = named_of(deactivate("{'2': [5, 2, 7], '4': [0]}"));
  const Replacement bottom = named.bottom(usage);
  CHECK(given(bottom, 2, {5, 2, 7}) == std::vector<int32_t>{4, 1, 3});  // 2 is the least used, but is named itself
  CHECK(given(bottom, 4, {0}) == std::vector<int32_t>{2});
  CHECK(error_of([&] { named.bottom({}); }) == "controls: expected the usage of 8 experts in layer 2, found that of 0");
  // Two edits: the second goes on where the first ended.
  named = named_of(deactivate("{'2': [5]}") + "," + deactivate("{'2': [7]}"));
  CHECK(given(named.bottom(usage), 2, {5, 7}) == std::vector<int32_t>{2, 4});
}

TEST_CASE("interventions: names, order and what each is") {
  const std::string keys =
      entries("{'name': 'off', 'edits': [" + ban +
              "]}, {'name': 'g', 'grid': {'by': [1, 2.5]}, 'edits': [{'op': "
              "'deactivate', 'mode': 'bias', 'by': '$by', 'experts': [3], 'layers': '1-2'}]}, {'name': 'mis', 'edits': "
              "[{'op': 'misroute', 'policy': 'random'}]}, {'name': 'noop', 'edits': []}") +
      ", 'controls': {'random': 2, 'frequency_matched': 1, 'bottom': true}, 'audit': {'experts': {'4': [2, 1], '3': "
      "[5]}}";
  const auto planned = plan_of_spec(keys, 0, usage_of({8, 7, 6, 5, 4, 3, 2, 1}));
  CHECK(names_of(planned) ==
        "baseline off off/random-0 off/random-1 off/frequency-0 off/bottom "
        "g/by=1 g/by=1/random-0 g/by=1/random-1 g/by=1/frequency-0 g/by=1/bottom "
        "g/by=2.5 g/by=2.5/random-0 g/by=2.5/random-1 g/by=2.5/frequency-0 g/by=2.5/bottom "
        "mis noop audit/L3E5 audit/L4E1 audit/L4E2");
  CHECK(planned[0].description == "no edits");
  CHECK(planned[1].description == "ban 2 experts in layer 2");
  CHECK(planned[1].control == ControlKind::none);
  CHECK(planned[2].control == ControlKind::random);
  CHECK(planned[2].control_of == "off");
  CHECK(planned[2].entry == "off");
  CHECK(planned[2].description == "off with random experts 0");
  CHECK(planned[4].control == ControlKind::frequency_matched);
  CHECK(planned[5].control == ControlKind::bottom);
  CHECK(json::dump(planned[5].edits) == R"([{"op":"deactivate","mode":"ban","experts":{"2":[7,6]}}])");
  CHECK(planned[6].description == "add -1 to the logits of 2 experts in layers 1-2");
  REQUIRE(planned[8].grid.size() == 1);
  CHECK(planned[8].grid[0].second == json::Value(1));
  CHECK(planned[16].description == "misroute random");
  CHECK(planned[18].audited == ExpertId{3, 5});
  CHECK(planned[18].description == "ban expert 5 in layer 3");
  CHECK(planned[18].control_of.empty());
  CHECK(json::dump(planned[20].edits) == R"([{"op":"deactivate","mode":"ban","experts":{"4":[2]}}])");
  for (const PlannedIntervention& one : planned)
    CHECK_NOTHROW(EditPlan::parse(json::Ref(one.edits, one.name), ".", sample_shape(), 0));

  // Another seed: the same names, other experts.
  const auto other = plan_of_spec(keys, 1, usage_of({8, 7, 6, 5, 4, 3, 2, 1}));
  CHECK(names_of(other) == names_of(planned));
  std::set<ControlKind> differ;
  for (size_t i = 0; i < planned.size(); ++i)
    if (!(planned[i].edits == other[i].edits)) differ.insert(planned[i].control);
  CHECK(differ == std::set<ControlKind>{ControlKind::random, ControlKind::frequency_matched});
}

TEST_CASE("interventions: experts from a stage of detection") {
  TemporaryDirectory dir;
  write_file(dir / "rd.csv", "layer,expert,rd\n1,0,0.5\n1,1,-0.1\n3,7,0.4\n3,6,-0.45\n");
  const std::string keys =
      entries(
          "{'name': 'off', 'edits': [{'op': 'deactivate', 'mode': 'ban', 'experts': {'from': 'detect:m', 'top': "
          "2}}]}") +
      ", 'detect': {'m': {'contrast': 'A:B'}}, 'split': {'detect': 'a', 'test': 'b'}, 'controls': {'bottom': true}, "
      "'audit': {'from': 'detect:m', 'top': 3, 'sign': 'both', 'mode': 'zero', 'tokens': {'phase': 'given'}}";
  const auto planned = plan_of_spec(keys, 0, {}, {{"m", dir / "rd.csv"}}, "elsewhere");
  CHECK(names_of(planned) == "baseline off off/bottom audit/L1E0 audit/L3E6 audit/L3E7");
  CHECK(json::dump(planned[1].edits) == R"([{"op":"deactivate","mode":"ban","experts":{"1":[0],"3":[7]}}])");
  CHECK(planned[1].description == "ban 2 experts in layers 1,3");
  CHECK(json::dump(planned[2].edits) == R"([{"op":"deactivate","mode":"ban","experts":{"1":[1],"3":[6]}}])");
  CHECK(json::dump(planned[3].edits) ==
        R"([{"op":"scale_expert","by":0,"experts":{"1":[0]},"tokens":{"phase":"given"}}])");
  CHECK(planned[3].description == "scale expert 0 by 0 in layer 1, given tokens");
  CHECK(error_of([&] { plan_of_spec(keys); }) == "detect.m: expected the file of this stage of detection, found none");
}

TEST_CASE("interventions: audits of every expert, and of the first of several stages") {
  const auto planned = plan_of_spec(entries() + ", 'audit': {'experts': 'all', 'layers': '2,4'}");
  REQUIRE(planned.size() == 1 + 16);
  CHECK(planned[1].name == "audit/L2E0");
  CHECK(planned[16].name == "audit/L4E7");
  CHECK(json::dump(planned[16].edits) == R"([{"op":"deactivate","mode":"ban","experts":{"4":[7]}}])");
  CHECK(plan_of_spec(entries() + ", 'audit': 'all'").size() == 1 + 5 * 8);

  TemporaryDirectory dir;
  write_file(dir / "m.csv", "layer,expert,rd,rd_norm\n1,0,0.5,0\n3,7,0.4,2\n");
  write_file(dir / "n.csv", "layer,expert,rd,rd_norm\n1,0,0.5,3\n2,1,0.4,2\n");
  const std::string keys = entries() +
                           ", 'detect': {'m': {'contrast': 'A:B'}, 'n': {'contrast': 'B:A'}}, "
                           "'split': {'detect': 'a', 'test': 'b'}, 'audit': {'from': ['detect:m', 'detect:n'], "
                           "'top': 2, 'by': 'norm'}";
  CHECK(names_of(plan_of_spec(keys, 0, {}, {{"m", dir / "m.csv"}, {"n", dir / "n.csv"}}, "elsewhere")) ==
        "baseline audit/L1E0 audit/L2E1 audit/L3E7");
}

TEST_CASE("interventions: a usage table is needed where experts are listed, or for matching by frequency") {
  const auto needs = [](const std::string& experts, const std::string& controls) {
    return needs_usage(
        spec_of(entries("{'name': 'off', 'edits': [" + deactivate(experts) + "]}") + ", 'controls': " + controls));
  };
  CHECK(needs("{'2': [1]}", "{'bottom': true}"));
  CHECK(needs("[1]", "true"));
  CHECK_FALSE(needs("{'from': 'rd.csv', 'top': 1}", "true"));
  CHECK(needs("{'from': 'rd.csv', 'top': 1}", "{'frequency_matched': 1}"));
  CHECK_FALSE(needs("{'2': [1]}", "{'random': 5}"));
  CHECK_FALSE(needs_usage(spec_of(entries("{'name': 'x', 'edits': [{'op': 'top_k', 'k': 1}]}") +
                                  ", 'controls': {'frequency_matched': 3, 'bottom': true}")));
}

TEST_CASE("interventions: what the model or the traces do not have") {
  CHECK(error_of([&] {
          plan_of_spec(
              entries("{'name': 'x', 'edits': [{'op': 'top_k', 'k': 1}, {'op': 'top_k', 'k': 1, 'layers': '9'}]}"));
        }) == "S.json: interventions[1].edits[1].layers: expected layers below 6, found 9");
  CHECK(error_of([&] {
          plan_of_spec(entries() + ", 'traces': {'points': 'router.idz'}");
        }).starts_with("S.json: traces.points: "));
  CHECK(error_of([&] {
          plan_of_spec(entries() + ", 'metrics': ['route_jaccard'], 'traces': {'points': 'router.logits'}");
        }) ==
        "S.json: traces.points: expected globs that match router.ids, for the metric \"route_jaccard\", found "
        "\"router.logits\"");
  CHECK(error_of([&] { plan_of_spec(entries() + ", 'audit': {'experts': {'0': [1]}}"); }) ==
        "S.json: audit.experts: expected layers with a router, found layer 0");
}

TEST_CASE("interventions: descriptions") {
  const auto describe = [](const std::string& edits) {
    const json::Value value = quoted_json("[" + edits + "]", "S.json");
    return describe_edits(json::Ref(value, "S.json", "edits"), ".", sample_shape());
  };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "no edits"},
      {deactivate("[1, 2]"), "ban 10 experts in layers 1-5"},
      {deactivate("{'1': [1], '3': [1, 2], '4': [0]}"), "ban 4 experts in layers 1,3-4"},
      {"{'op': 'deactivate', 'mode': 'steermoe', 'experts': {'1': [1]}}", "steer away from expert 1 in layer 1"},
      {"{'op': 'activate', 'mode': 'steermoe', 'experts': {'1': [1]}}", "steer towards expert 1 in layer 1"},
      {"{'op': 'activate', 'mode': 'force', 'experts': {'1': [1]}}", "force expert 1 in layer 1"},
      {"{'op': 'activate', 'mode': 'bias', 'by': 0.5, 'experts': {'1': [1]}}",
       "add 0.5 to the logits of expert 1 in layer 1"},
      {"{'op': 'misroute', 'policy': 'next_best', 'tokens': {'phase': 'generated', 'fraction': 0.25}}",
       "misroute next_best, generated tokens, fraction 0.25"},
      {"{'op': 'misroute', 'policy': 'shift', 'by': 3, 'layers': '2-3', 'weights': 'keep_slot'}",
       "misroute shift by 3 in layers 2-3, weights keep_slot"},
      {"{'op': 'misroute', 'policy': 'gumbel', 'tau': 0.5}", "misroute gumbel tau 0.5"},
      {"{'op': 'misroute', 'policy': 'random', 'exclude_original': true}", "misroute random without the original"},
      {"{'op': 'misroute', 'policy': 'fixed', 'experts': [1, 2], 'layers': '2'}",
       "misroute fixed to 2 experts in layer 2"},
      {"{'op': 'top_k', 'k': 1}, {'op': 'temperature', 't': 1.5, 'tokens': {'span': 'doc', 'positions': '3:'}}",
       "top_k 1; temperature 1.5, span doc, positions 3:"},
      {"{'op': 'scale_expert', 'by': 0, 'experts': [1], 'layers': '2'}, {'op': 'scale_shared', 'by': 2, 'tokens': "
       "{'phase': 'given', 'margin_below': 0.5}}",
       "scale expert 1 by 0 in layer 2; scale the shared expert by 2, given tokens, margin below 0.5"},
      {"{'op': 'replay', 'trace': 'runs/base', 'sample': 'q'}", "replay base of q"},
      {"{'op': 'ablate', 'point': 'moe.out', 'layers': '2', 'value': 'zero'}", "set moe.out to zero in layer 2"},
      {"{'op': 'ablate', 'point': 'layer.2.expert.hidden', 'experts': [1], 'value': {'mean_of': 't'}, 'neurons': [0, "
       "1]}",
       "set expert.hidden of expert 1, 2 neurons to its mean in layer 2"},
      {"{'op': 'add', 'point': 'resid_out', 'vector': 'v:honesty', 'scale': -2, 'layers': '3'}",
       "add -2 x honesty to resid_out in layer 3"},
      {"{'op': 'patch', 'point': 'embed', 'from': 't'}", "patch embed"}};
  for (const auto& [edits, description] : cases) CHECK(describe(edits) == description);
  CHECK(plan_of_spec(entries("{'name': 'x', 'description': 'My words', 'edits': [{'op': 'top_k', 'k': 1}]}"))[1]
            .description == "My words");
}

TEST_CASE("interventions: of several seeds only the first where none would change anything") {
  const auto only = [](const std::string& more) {
    std::string names;
    for (const PlannedIntervention& one : plan_of_spec(more))
      if (one.first_seed_only) names += one.name + " ";
    return names;
  };
  const std::string list = entries("{'name': 'off', 'edits': [" + ban +
                                   "]}, {'name': 'part', 'edits': [{'op': 'top_k', 'k': 1, 'tokens': {'fraction': "
                                   "0.5}}]}, {'name': 'own', 'edits': "
                                   "[{'op': 'misroute', 'policy': 'random', 'seed': 3}]}, {'name': 'g', 'grid': "
                                   "{'policy': ['random', 'permute', "
                                   "'worst']}, 'edits': [{'op': 'misroute', 'policy': '$policy'}]}, {'name': 'tau', "
                                   "'edits': [{'op': 'misroute', "
                                   "'policy': 'gumbel', 'tau': 1}]}") +
                           ", 'controls': {'random': 1}, 'metrics': ['nll']";
  CHECK(only(list) == "");
  CHECK(only(list + ", 'seeds': [0, 1]") == "baseline off off/random-0 own g/policy=worst ");
  const std::string text = list + ", 'seeds': [0, 1], 'generate': ";
  CHECK(only(text + "{}") == "baseline off off/random-0 own g/policy=worst ");
  CHECK(only(text + "{'temperature': 1, 'top_k': 1}") == "baseline off off/random-0 own g/policy=worst ");
  CHECK(only(text + "{'temperature': 0.7}") == "");
  CHECK(only(text + "{}, 'programs': [{'name': 'R0'}, {'name': 'R3', 'temperature': 0.7}]") == "");
}
