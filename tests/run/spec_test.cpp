// The experiment spec: what each key means, its default, and what is refused before a model or data is opened.
#include <map>

#include "base/text.h"
#include "eval/experiment/schedule.h"
#include "tests/run/experiment_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

TEST_CASE("spec: the least spec, and every default") {
  const ExperimentSpec spec = spec_of(entries(), "some/dir");
  CHECK(spec.model == "builtin");
  CHECK(spec.data == std::filesystem::path("some/dir/D.jsonl"));
  CHECK(spec.baseline == "baseline");
  CHECK_FALSE(spec.generate.has_value());
  CHECK(spec.programs.empty());
  CHECK(spec.detect.empty());
  CHECK_FALSE(spec.metrics_given);
  CHECK(spec.metrics.empty());
  CHECK(spec.seeds == std::vector<uint64_t>{0});
  CHECK_FALSE(spec.traces.on);
  CHECK_FALSE(spec.audit.has_value());
  CHECK_FALSE(spec.split.has_value());
  CHECK_FALSE(spec.tune.has_value());
  CHECK(spec.resamples == 10000);
  CHECK(spec.seed == 0);
  REQUIRE(spec.interventions.size() == 1);
  CHECK(spec.interventions[0].controls.random == 20);
  CHECK(spec.interventions[0].controls.frequency_matched == 0);
  CHECK(spec.interventions[0].controls.bottom);
  CHECK(spec_of(entries() + ", 'generate': {}").generate->max_tokens == 64);
}

TEST_CASE("spec: every key is read") {
  const ExperimentSpec spec = spec_of(
      "'generate': {'max_tokens': 8, 'temperature': 0.5, 'top_p': 0.9, 'top_k': 3, 'samples': 2, 'stop': ['a', 'b'], "
      "'ignore_eos': true}, 'programs': [{'name': 'R0'}, {'name': 'R1', 'suffix': '!'}], "
      "'detect': {'mem': {'contrast': 'A:B', 'span': 'question', 'phase': 'given', 'length_match': true, 'held_out': "
      "true, "
      "'stable_top': 7}, 'gen': {'contrast': ['x:y', 'z'], 'phase': 'generated'}}, "
      "'interventions': [{'name': 'none'}, {'name': 'off', 'description': 'Memory off', 'edits': [{'op': 'deactivate', "
      "'mode': 'ban', 'experts': {'from': 'detect:mem', 'top': 8, 'sign': '-'}}]}, {'name': 'g', 'grid': {'k': [1, "
      "2]}, "
      "'edits': [{'op': 'top_k', 'k': '$k'}]}, {'name': 'own', 'edits': [" +
      ban +
      "], 'controls': {'random': 1}}], 'baseline': 'none', 'audit': {'from': 'detect:mem', 'top': 20, 'sign': 'both', "
      "'mode': 'steermoe', 'tokens': {'phase': 'given'}, 'weights': 'keep_slot'}, 'controls': {'random': 3, "
      "'frequency_matched': 2}, 'metrics': ['em', 'kl', 'judge:ok'], 'seeds': [3, 1], 'split': {'key': 'part', "
      "'detect': "
      "'a', 'tune': 'c', 'test': 'b'}, 'tune': {'metric': 'em', 'goal': 'lower'}, 'traces': {'points': 'router.ids', "
      "'of': ['g', 'off', 'audit']}, 'judges': {'ok': {'command': ['python3', 'judge.py'], 'timeout': 5, 'batch': 7}}, "
      "'resamples': "
      "100, 'seed': 9");
  CHECK(spec.generate->max_tokens == 8);
  CHECK(spec.generate->sampling.temperature == 0.5);
  CHECK(spec.generate->sampling.top_p == 0.9);
  CHECK(spec.generate->sampling.top_k == 3);
  CHECK(spec.generate->samples == 2);
  CHECK(spec.generate->stop == std::vector<std::string>{"a", "b"});
  CHECK(spec.generate->ignore_eos);
  REQUIRE(spec.programs.size() == 2);
  CHECK(spec.programs[1].suffix == "!");
  REQUIRE(spec.detect.size() == 2);
  CHECK(spec.detect[0].a == "A");
  CHECK(spec.detect[0].b == "B");
  CHECK(spec.detect[0].span == "question");
  CHECK(spec.detect[0].phase == Phase::given);
  CHECK(spec.detect[0].length_match);
  CHECK(spec.detect[0].stable_top == 7);
  CHECK(spec.detect[0].held_out);
  CHECK(!spec.detect[1].held_out);
  CHECK(spec.detect[1].a == "x:y");
  CHECK(spec.detect[1].phase == Phase::generated);
  REQUIRE(spec.interventions.size() == 5);
  CHECK(spec.interventions[1].description == "Memory off");
  CHECK(spec.interventions[1].names_experts);
  CHECK_FALSE(spec.interventions[1].lists_experts);
  CHECK(spec.interventions[1].controls.random == 3);
  CHECK(spec.interventions[1].controls.frequency_matched == 2);
  CHECK_FALSE(spec.interventions[1].controls.bottom);  // what an object of controls leaves out is none
  CHECK(spec.interventions[2].name == "g/k=1");
  CHECK(spec.interventions[3].entry == "g");
  CHECK_FALSE(spec.interventions[3].names_experts);
  CHECK(spec.interventions[4].lists_experts);
  CHECK(spec.interventions[4].controls.random == 1);
  CHECK(spec.interventions[4].controls.frequency_matched == 0);
  REQUIRE(spec.audit->edits.size() == 1);
  CHECK(json::dump(spec.audit->edits[0]) ==
        R"({"op":"deactivate","mode":"steermoe","experts":{"from":"detect:mem","top":20,"sign":"both"},)"
        R"("tokens":{"phase":"given"},"weights":"keep_slot"})");
  CHECK(spec.metrics == std::vector<std::string>{"em", "kl", "judge:ok"});
  CHECK(spec.seeds == std::vector<uint64_t>{3, 1});
  CHECK(spec.split->key == "part");
  CHECK(spec.split->detect == "a");
  CHECK(spec.split->tune == "c");
  CHECK(spec.split->test == "b");
  CHECK(spec.tune->metric == "em");
  CHECK_FALSE(spec.tune->higher);
  CHECK(spec.traces.points == "router.ids");
  REQUIRE(spec.judges.size() == 1);
  CHECK(spec.judges[0].command == std::vector<std::string>{"python3", "judge.py"});
  CHECK(spec.judges[0].timeout == 5);
  CHECK(spec.judges[0].batch == 7);
  CHECK(spec.resamples == 100);
  CHECK(spec.seed == 9);

  CHECK(spec.traced("g", "g/k=1"));
  CHECK(spec.traced("off", "off"));
  CHECK_FALSE(spec.traced("off", "off/random-0"));
  CHECK_FALSE(spec.traced("own", "own"));
  CHECK(spec.traced("audit", "audit/L3E5"));

  const auto rankings = rankings_of(spec);
  REQUIRE(rankings.size() == 2);
  CHECK(rankings[0].path == "interventions[1].edits[0].experts.from");
  CHECK(rankings[0].detect == "mem");
  CHECK(rankings[1].path == "audit.from");
}

TEST_CASE("spec: keys, types and names are checked, naming the key") {
  const std::string text_run = ", 'generate': {}";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"'interventions': [{'name': 'baseline'}], 'metric': ['em']", "unknown key \"metric\""},
      {"'seed': 1", "expected the key \"interventions\", found none"},
      {"'interventions': {}", "interventions: expected an array, found an object"},
      {"'interventions': []", "interventions: expected at least the baseline, found none"},
      {"'interventions': [{'name': 'off'}]",
       "interventions: expected the baseline \"baseline\" among them, found none of that name"},
      {entries() + ", 'baseline': 'base'",
       "interventions: expected the baseline \"base\" among them, found none of that name"},
      {"'interventions': [{'name': 'baseline', 'edits': [{'op': 'top_k', 'k': 1}]}]",
       "interventions[0].edits: expected none for the baseline, found some"},
      {entries("{'name': 'baseline'}"), "interventions[1].name: expected each name once, found \"baseline\" again"},
      {entries("{'name': 'audit'}"),
       "interventions[1].name: expected another name than \"audit\", which is that of the audit's"},
      {entries("{'name': 'a/b'}"),
       "interventions[1].name: expected a name of 1 to 200 bytes without '/' and control characters, found \"a/b\""},
      {entries("{'name': ''}"), "interventions[1].name: expected a name of 1 to 200 bytes"},
      {entries("{'name': '..'}"), "interventions[1].name: expected a name of 1 to 200 bytes"},
      {entries("{'name': 'a\\n'}"), "interventions[1].name: expected a name of 1 to 200 bytes"},
      {entries("{'edits': []}"), "interventions[1]: expected the key \"name\", found none"},
      {entries("{'name': 'x', 'edit': []}"), "interventions[1]: unknown key \"edit\""},
      {entries("{'name': 'x', 'edits': {}}"), "interventions[1].edits: expected an array, found an object"},
      {entries("{'name': 'x', 'edits': [{'op': 'off'}]}"), "interventions[1].edits[0].op: expected \"deactivate\""},
      {entries("{'name': 'x', 'edits': [{'op': 'deactivate', 'mode': 'ban'}]}"),
       "interventions[1].edits[0]: expected the key \"experts\" for deactivate ban, found none"},
      {entries("{'name': 'x', 'edits': [{'op': 'deactivate', 'mode': 'ban', 'experts': []}]}"),
       "interventions[1].edits[0].experts: expected at least one expert, found none"},
      {entries("{'name': 'x', 'edits': [{'op': 'deactivate', 'mode': 'ban', 'experts': {'2': []}}]}"),
       "interventions[1].edits[0].experts: expected at least one expert in layer 2, found none"},
      {entries(
           "{'name': 'x', 'edits': [{'op': 'activate', 'mode': 'force', 'experts': {'from': 'detect:m', 'top': 0}}]}"),
       "interventions[1].edits[0].experts.top: expected an integer from 1 to"},
      {entries("{'name': 'x', 'grid': {'p': ['random', 'rnd']}, 'edits': [{'op': 'misroute', 'policy': '$p'}]}"),
       "interventions[1] (p=rnd).edits[0].policy: expected \"next_best\""},
      {entries("{'name': 'x', 'description': ''}"), "interventions[1].description: expected one line of text, found"},
      {entries() + ", 'title': 'two\\nlines'", "title: expected one line of text, found"},
      {entries() + ", 'question': 5", "question: expected a string, found 5"},
      {entries("{'name': 'x', 'controls': {'random': 2}}"),
       "interventions[1].controls: expected edits that name experts, for controls to replace, found none"},
      {entries() + ", 'controls': {'random': -1}", "controls.random: expected an integer from 0 to 10000, found -1"},
      {entries() + ", 'controls': {'rand': 1}", "controls: unknown key \"rand\""},
      {entries() + ", 'controls': 5", "controls: expected {\"random\": N, \"frequency_matched\": N, \"bottom\": true}"},
      {entries() + ", 'generate': {'max_tokens': 0}", "generate.max_tokens: expected an integer from 1 to"},
      {entries() + ", 'generate': {'max_token': 1}", "generate: unknown key \"max_token\""},
      {entries() + ", 'generate': {'temperature': -1}", "generate.temperature: expected a number from 0 to 1000"},
      {entries() + ", 'generate': {'top_p': 1.5}", "generate.top_p: expected a number from 0 to 1, found 1.5"},
      {entries() + ", 'generate': {'top_k': -1}", "generate.top_k: expected an integer from 0 to"},
      {entries() + ", 'generate': {'samples': 0}", "generate.samples: expected an integer from 1 to"},
      {entries() + ", 'generate': {'stop': 'x'}", "generate.stop: expected an array, found \"x\""},
      {entries() + ", 'generate': {'stop': ['']}", "generate.stop[0]: expected a text that is not empty, found \"\""},
      {entries() + ", 'generate': 64", "generate: expected an object, found 64"},
      {entries() + ", 'programs': 'regimes'", "programs: expected \"generate\" in the spec, for program R"},
      {entries() + ", 'programs': [{'suffix': 'x'}]", "programs[0]"},
      {entries() + ", 'metrics': []", "metrics: expected at least one metric, found none"},
      {entries() + text_run + ", 'metrics': ['em', 'em']", "metrics[1]: expected each metric once, found \"em\" again"},
      {entries() + text_run + ", 'metrics': ['emm']", "metrics[0]: expected a metric (nearest: em"},
      {entries() + ", 'metrics': ['kl', 'em']",
       "metrics[1]: expected \"generate\" in the spec for \"em\", which needs text, found none"},
      {entries() + text_run + ", 'metrics': ['judge:x']",
       "metrics[0]: expected a judge of \"judges\" (there are none), found \"judge:x\""},
      {entries() + ", 'judges': {'x': {'command': ['true']}}, 'metrics': ['judge:x']",
       "metrics[0]: expected \"generate\" in the spec for \"judge:x\", which needs text, found none"},
      {entries() + text_run + ", 'judges': {'x': {'command': ['true']}}, 'metrics': ['em']",
       "judges.x: expected the metric \"judge:x\", found none"},
      {entries() + ", 'judges': {'x': {'command': []}}",
       "judges.x.command: expected a program and its arguments, found none"},
      {entries() + ", 'judges': {'x': {'command': ['true'], 'timeout': 0}}",
       "judges.x.timeout: expected seconds above 0 and at most 86400, found 0"},
      {entries() + ", 'seeds': []", "seeds: expected at least one seed, found none"},
      {entries() + ", 'seeds': [1, 2, 1]", "seeds[2]: expected each seed once, found 1 again"},
      {entries() + ", 'seeds': [-1]", "seeds[0]: expected an integer from 0 to"},
      {entries() + ", 'seeds': 0", "seeds: expected an array, found 0"},
      {entries() + ", 'primary': {}", "primary: expected \"interventions\" or \"metrics\", found neither"},
      {entries() + ", 'primary': {'interventions': ['off']}",
       "primary.interventions[0]: expected the name of an intervention ("},
      {entries() + ", 'primary': {'interventions': ['baseline']}",
       "primary.interventions[0]: expected an intervention beside the baseline"},
      {entries("{'name': 'x', 'edits': []}") + ", 'primary': {'interventions': ['x', 'x']}",
       "primary.interventions[1]: expected each name once, found \"x\" again"},
      {entries("{'name': 'x', 'edits': []}") + ", 'primary': {'interventions': []}",
       "primary.interventions: expected at least one name, found none"},
      {entries() + ", 'primary': {'metrics': ['nll']}, 'metrics': ['ppl']",
       "primary.metrics[0]: expected a metric of the run (ppl), found \"nll\""},
      {entries() + ", 'primary': {'metrics': ['nlll']}", "primary.metrics[0]: expected a metric (nearest: nll"},
      {entries() + ", 'primary': {'metric': ['nll']}", "primary: unknown key \"metric\""},
      {entries("{'name': 'g', 'grid': {'t': [2, 3]}, 'edits': [{'op': 'temperature', 't': '$t'}]}") +
           ", 'metrics': ['ppl'], 'split': {'tune': 'a', 'test': 'b'}, 'tune': {'metric': 'ppl', 'goal': 'lower'}, "
           "'primary': {'interventions': ['g/t=2']}",
       "primary.interventions[0]: expected the name of the whole grid, whose point \"tune\" chooses, found \"g/t=2\""},
      {entries() + ", 'equivalence': {}", "equivalence: expected {\"margin\": M} or {METRIC: {\"margin\": M}}"},
      {entries() + ", 'equivalence': {'margin': 0}", "equivalence.margin: expected a number above 0, found 0"},
      {entries() + ", 'equivalence': {'nll': {'margin': -1}}",
       "equivalence.nll.margin: expected a number above 0, found -1"},
      {entries() + ", 'equivalence': {'nll': 0.1}", "equivalence.nll: expected an object, found 0.1"},
      {entries() + ", 'equivalence': {'nlll': {'margin': 1}}", "equivalence.nlll: expected a metric (nearest: nll"},
      {entries() + ", 'equivalence': {'nll': {'margin': 1}}, 'metrics': ['ppl']",
       "equivalence.nll: expected a metric of the run (ppl), found \"nll\""},
      {entries() + ", 'resamples': 0", "resamples: expected an integer from 1 to"},
      {entries() + ", 'seed': 1.5", "seed: expected an integer, found 1.5"},
      {entries() + ", 'split': 'b'", "split: expected an object, found \"b\""},
      {entries() + ", 'split': {'detect': 'a'}", "split: expected the key \"test\", found none"},
      {entries() + ", 'split': {'detect': 'a', 'test': 'a'}",
       "split.test: expected another split than that of detect, found \"a\" for both"},
      {entries() + ", 'split': {'tune': 'b', 'test': 'b'}", "split.test: expected another split than that of tune"},
      {entries() + ", 'split': {'test': ''}", "split.test: expected a text that is not empty, found \"\""},
      {entries() + ", 'traces': 1", "traces: expected true, false or {\"points\": GLOBS, \"of\": [NAME...]}, found 1"},
      {entries() + ", 'traces': {'of': ['off']}", "traces.of[0]: expected the name of an intervention ("},
      {entries() + ", 'traces': {'of': ['baseline', 'baseline']}",
       "traces.of[1]: expected each name once, found \"baseline\" again"},
      {entries() + ", 'traces': {'of': []}", "traces.of: expected at least one name, found none"},
      {entries() + ", 'traces': {'of': ['audit']}", "traces.of[0]: expected the name of an intervention"},
      {entries() + ", 'traces': {'points': ''}", "traces.points: expected globs such as"},
      {entries() + ", 'metrics': ['route_jaccard']",
       "metrics[0]: expected \"traces\" of every intervention for \"route_jaccard\", found none"},
      {entries() + ", 'metrics': ['kl', 'route_jaccard'], 'traces': {'of': ['baseline']}",
       "metrics[1]: expected \"traces\" of every intervention for \"route_jaccard\", found those of some"},
      {entries() + ", 'detect': {'m': {}}", "detect.m: expected the key \"contrast\", found none"},
      {entries() + ", 'detect': {'m': {'contrast': 'A'}}", "detect.m.contrast: expected \"A:B\" or [\"A\", \"B\"]"},
      {entries() + ", 'detect': {'m': {'contrast': 'A:B:C'}}", "detect.m.contrast: expected \"A:B\" or [\"A\", \"B\"]"},
      {entries() + ", 'detect': {'m': {'contrast': ['A', 'A']}}",
       "detect.m.contrast: expected two different conditions as \"A:B\""},
      {entries() + ", 'detect': {'m': {'contrast': 'A:'}}", "detect.m.contrast: expected two different conditions"},
      {entries() + ", 'detect': {'m': {'contrast': 'A:B', 'phase': 'prompt'}}",
       "detect.m.phase: expected \"given\", \"generated\" or \"all\", found \"prompt\""},
      {entries() + ", 'detect': {'m': {'contrast': 'A:B', 'phase': 'generated'}}",
       "detect.m.phase: expected \"generate\" in the spec for generated tokens, found none"},
      {entries() + text_run + ", 'detect': {'m': {'contrast': 'A:B', 'phase': 'generated', 'span': 's'}}",
       "detect.m.span: expected no span beside generated tokens, which are in none"},
      {entries() + ", 'detect': {'m/n': {'contrast': 'A:B'}}", "detect: expected a name of 1 to 200 bytes"},
      {entries() + ", 'detect': {'m': {'contrast': 'A:B'}}, 'split': {'test': 'b'}",
       "split: expected \"detect\", the split that detection sees, found none"},
      {entries() + ", 'audit': {}", "audit: expected either \"from\" or \"experts\", found neither"},
      {entries() + ", 'audit': {'from': 'rd.csv', 'top': 3, 'experts': {'2': [1]}}",
       "audit: expected either \"from\" or \"experts\", found both"},
      {entries() + ", 'audit': {'from': 'rd.csv'}", "audit: expected the key \"top\", found none"},
      {entries() + ", 'audit': {'from': 'rd.csv', 'top': 3, 'sign': 'plus'}",
       "audit.sign: expected \"+\", \"-\" or \"both\", found \"plus\""},
      {entries() + ", 'audit': {'experts': {'2': [1]}, 'top': 3}",
       "audit.top: expected it only beside \"from\", found it beside \"experts\""},
      {entries() + ", 'audit': {'experts': [1]}",
       "audit.experts: expected \"all\" or an object of lists by layer, found an array"},
      {entries() + ", 'audit': 'every'", "audit: expected \"all\" or an object, found \"every\""},
      {entries() + ", 'audit': {'experts': 'every'}",
       "audit.experts: expected \"all\" or an object of lists by layer, found \"every\""},
      {entries() + ", 'audit': {'from': [], 'top': 1}",
       "audit.from: expected at least one stage of detection, found none"},
      {entries() + ", 'audit': {'from': ['rd.csv'], 'top': 1}",
       "audit.from[0]: expected \"detect:NAME\" in a list of rankings, found \"rd.csv\""},
      {entries() + ", 'audit': {'from': ['detect:m', 'detect:m'], 'top': 1}",
       "audit.from[1]: expected each stage once, found \"detect:m\" again"},
      {entries() + ", 'audit': {'from': 'audit.csv', 'by': 'q_effect', 'top': 1}",
       "audit.by: expected a column that measures an effect"},
      {entries() + ", 'audit': {'from': 'audit.csv', 'condition': '', 'top': 1}",
       "audit.condition: expected a text, or no key for all records"},
      {entries() + ", 'audit': {'experts': {}}", "audit.experts: expected at least one expert, found none"},
      {entries() + ", 'audit': {'experts': {'2': [1]}, 'mode': 'off'}",
       "audit.mode: expected \"ban\", \"steermoe\" or \"zero\", found \"off\""},
      {entries() + ", 'audit': {'experts': {'2': [1]}, 'mode': 'zero', 'weights': 'hole'}",
       "audit.weights: expected none beside mode zero, found some"},
      {entries() + ", 'audit': {'experts': {'2': [1]}, 'tokens': {'phase': 'x'}}", "audit.tokens.phase: expected"},
  };
  for (const auto& refused : cases) {
    const std::string found = spec_error(refused.first);
    CHECK_MESSAGE(found.starts_with(refused.second), refused.first << "\n  " << found);
  }
}

TEST_CASE("spec: a grid over detection, and over what takes its experts from there") {
  const std::string stage =
      ", 'detect': {'m': {'contrast': 'A:B', 'stable_top': 9, 'grid': {'span': [null, 'q'], 'length_match': [true, "
      "false]}}, "
      "'n': {'contrast': 'B:A'}}, 'split': {'detect': 'a', 'test': 'b'}";
  const std::string edit = "{'op': 'deactivate', 'mode': 'ban', 'experts': {'from': 'detect:m', 'top': ";
  const ExperimentSpec spec =
      spec_of(entries("{'name': 'off', 'grid': {'top': [4, 8]}, 'edits': [" + edit +
                      "'$top'}}]}, {'name': 'plain', 'edits': [{'op': 'deactivate', 'mode': 'ban', "
                      "'experts': {'from': 'detect:n', 'top': 1}}]}") +
              stage);
  REQUIRE(spec.detect.size() == 5);
  CHECK(spec.detect[0].name == "m/span=null,length_match=true");
  CHECK(spec.detect[0].entry == "m");
  CHECK(spec.detect[0].span.empty());
  CHECK(spec.detect[0].length_match);
  CHECK(spec.detect[3].name == "m/span=q,length_match=false");
  CHECK(spec.detect[3].span == "q");
  CHECK(!spec.detect[3].length_match);
  CHECK(spec.detect[3].stable_top == 9);
  CHECK(spec.detect[4].name == "n");
  CHECK(spec.detect[4].grid.empty());
  REQUIRE(spec.interventions.size() == 10);
  CHECK(spec.interventions[1].name == "off/span=null,length_match=true,top=4");
  CHECK(spec.interventions[2].name == "off/span=null,length_match=false,top=4");
  CHECK(spec.interventions[8].name == "off/span=q,length_match=false,top=8");
  CHECK(spec.interventions[8].entry == "off");
  REQUIRE(spec.interventions[8].grid.size() == 3);
  CHECK(spec.interventions[8].grid[0].first == "span");
  CHECK(json::dump(spec.interventions[8].edits) ==
        R"([{"op":"deactivate","mode":"ban","experts":{"from":"detect:m/span=q,length_match=false","top":8}}])");
  CHECK(spec.interventions[9].name == "plain");
  CHECK(rankings_of(spec).back().detect == "n");
  // Refusals.
  const auto detect = [&](const std::string& keys) {
    return spec_error(entries() + ", 'detect': {'m': {'contrast': 'A:B', " + keys + "}}");
  };
  CHECK(detect("'span': 'q', 'grid': {'span': ['q', null]}") ==
        "detect.m.grid.span: expected the key here or in the stage itself, found both");
  CHECK(detect("'grid': {'contrast': ['A:B']}") ==
        "detect.m.grid: expected keys among span, phase and length_match, found \"contrast\"");
  CHECK(detect("'grid': {'phase': ['given', null]}") ==
        "detect.m.grid: expected points that differ, found \"m/phase=given\" and \"m/phase=null\"");
  CHECK(detect("'grid': {'phase': ['generated']}") ==
        "detect.m (phase=generated).phase: expected \"generate\" in the spec for generated tokens, found none");
  CHECK(spec_error(entries("{'name': 'off', 'grid': {'span': [4]}, 'edits': [" + edit + "'$span'}}]}") + stage) ==
        "interventions[1].grid: expected other keys than those of the grid of \"detect:m\", found \"span\"");
  CHECK(spec_error(
            entries("{'name': 'off', 'edits': [" + edit +
                    "1}}, {'op': 'deactivate', 'mode': 'ban', 'experts': "
                    "{'from': 'detect:o', 'top': 1}}]}") +
            ", 'detect': {'m': {'contrast': 'A:B', 'grid': {'span': ['x', 'y']}}, 'o': {'contrast': 'A:B', 'grid': "
            "{'span': ['x', 'y']}}}, 'split': {'detect': 'a', 'test': 'b'}") ==
        "interventions[1]: expected experts from one stage of detection with a grid, found \"m\" and \"o\"");
}

TEST_CASE("spec: deals in place of a split") {
  const std::string off = entries(
      "{'name': 'off', 'edits': [{'op': 'deactivate', 'mode': 'ban', 'experts': {'from': 'detect:m', 'top': 1}}]}");
  const std::string stage = ", 'detect': {'m': {'contrast': 'A:B'}}";
  const ExperimentSpec spec = spec_of(off + stage + ", 'cross_fit': {'deals': 4}");
  REQUIRE(spec.cross_fit);
  CHECK(spec.cross_fit->deals == 4);
  CHECK(spec.cross_fit->share == 0.5);
  CHECK(json::dump(*resolved_json(spec).find("cross_fit")) == R"({"deals":4,"share":0.5})");
  CHECK(!resolved_json(spec_of(entries())).find("cross_fit"));
  const auto error = [&](const std::string& fit, const std::string& more = "") {
    return spec_error(off + stage + ", 'cross_fit': " + fit + more);
  };
  CHECK(error("{'share': 0.5}") == "cross_fit: expected the key \"deals\", found none");
  CHECK(error("{'deals': 1}").starts_with("cross_fit.deals: expected"));
  CHECK(error("{'deals': 2, 'share': 1}") == "cross_fit.share: expected a number between 0 and 1, found 1");
  CHECK(error("{'deals': 2, 'folds': 2}").starts_with("cross_fit: "));
  CHECK(error("{'deals': 2}", ", 'split': {'detect': 'a', 'test': 'b'}") ==
        "cross_fit: expected no \"split\" beside it, for the deals split the records, found one");
  CHECK(error("{'deals': 2}", ", 'tune': {'metric': 'ppl', 'goal': 'lower'}") ==
        "cross_fit: expected no \"tune\" beside it, which needs records of its own, found one");
  CHECK(spec_error(entries("{'name': 'x', 'edits': [" + ban + "]}") + stage + ", 'cross_fit': {'deals': 2}") ==
        "cross_fit: expected an intervention or an audit that takes experts from \"detect:NAME\", found none");
}

TEST_CASE("spec: experts from a run's own data need a stage of detection and a split") {
  const std::string off = entries(
      "{'name': 'off', 'edits': [{'op': 'top_k', 'k': 1}, {'op': 'deactivate', 'mode': 'ban', 'experts': {'from': "
      "'detect:mem', 'top': 8}}]}");
  const std::string stage = ", 'detect': {'mem': {'contrast': 'A:B'}}";
  CHECK(spec_error(off) ==
        "interventions[1].edits[1].experts.from: expected a stage of \"detect\" (there are none), found \"mem\"");
  CHECK(spec_error(off + stage) ==
        "interventions[1].edits[1].experts.from: expected a \"split\", for experts found in a run's own data cannot be "
        "tested on the same records, found none ({\"share\": 0.5} deals them out in the run; signalbox data split "
        "writes a "
        "file with splits)");
  CHECK(spec_error(off + stage + ", 'split': {'share': 0.5, 'seed': 3}") == "no error");
  CHECK(spec_error(off + stage + ", 'split': {'share': 1}") ==
        "split.share: expected a number between 0 and 1, found 1");
  CHECK(spec_error(off + stage + ", 'split': {'share': 0.5, 'tune': 'c'}") ==
        "split.tune: expected none beside \"share\", which deals records to detect and test, found one");
  CHECK(spec_error(off + stage + ", 'split': {'test': 'b', 'seed': 3}") ==
        "split.seed: expected \"share\" beside it, found none");
  CHECK(spec_error(off + stage + ", 'split': {'share': 0.5, 'test': 'detect'}")
            .starts_with("split: expected two names for the parts"));
  CHECK(spec_error(off + stage + ", 'split': {'test': 'b'}") ==
        "split: expected \"detect\", the split that detection sees, found none");
  CHECK(spec_error(off + stage + ", 'split': {'detect': 'a', 'test': 'b'}") == "no error");
  CHECK(spec_error(entries() + stage + ", 'audit': {'from': 'detect:mem', 'top': 3}")
            .starts_with("audit.from: expected a \"split\""));
  // To look at without using it, detection may see all records.
  CHECK(spec_error(entries() + stage) == "no error");
}

TEST_CASE("spec: tuning needs a metric of the run, a split and a grid") {
  const std::string grid = entries("{'name': 'g', 'grid': {'k': [1, 2]}, 'edits': [{'op': 'top_k', 'k': '$k'}]}");
  const std::string split = ", 'split': {'tune': 'c', 'test': 'b'}",
                    tune = ", 'tune': {'metric': 'kl', 'goal': 'lower'}";
  CHECK(spec_error(grid + split + tune) == "no error");
  CHECK(spec_error(grid + split + ", 'tune': {'metric': 'ppl', 'goal': 'higher'}, 'metrics': ['kl']") ==
        "tune.metric: expected one of \"metrics\" (kl), found \"ppl\"");
  CHECK(spec_error(grid + split + ", 'tune': {'metric': 'kl'}") == "tune: expected the key \"goal\", found none");
  CHECK(spec_error(grid + split + ", 'tune': {'metric': 'kl', 'goal': 'up'}") ==
        "tune.goal: expected \"higher\" or \"lower\", found \"up\"");
  CHECK(spec_error(grid + split + ", 'tune': {'metric': 'em', 'goal': 'lower'}") ==
        "tune.metric: expected \"generate\" in the spec for \"em\", which needs text, found none");
  CHECK(spec_error(grid + tune) ==
        "tune: expected a split with \"tune\" for tuning, so that no record serves two purposes, found none");
  CHECK(spec_error(grid + tune + ", 'split': {'test': 'b'}").starts_with("tune: expected a split with \"tune\""));
  CHECK(spec_error(entries() + split + tune) ==
        "tune: expected an intervention with a grid to choose from, found none");
}

TEST_CASE("spec: controls for all, for none, and of one intervention") {
  const auto controls = [](const std::string& run, const std::string& own) {
    const ExperimentSpec spec = spec_of(entries("{'name': 'off', 'edits': [" + ban + "]" + own + "}") + run);
    const ControlsSpec& found = spec.interventions[1].controls;
    return std::to_string(found.random) + " " + std::to_string(found.frequency_matched) +
           (found.bottom ? " bottom" : "");
  };
  CHECK(controls("", "") == "20 0 bottom");
  CHECK(controls(", 'controls': true", "") == "20 0 bottom");
  CHECK(controls(", 'controls': false", "") == "0 0");
  CHECK(controls(", 'controls': null", "") == "0 0");
  CHECK(controls(", 'controls': {}", "") == "0 0");
  CHECK(controls(", 'controls': {'random': 5}", "") == "5 0");
  CHECK(controls(", 'controls': {'frequency_matched': 5, 'bottom': true}", "") == "0 5 bottom");
  CHECK(controls(", 'controls': {'random': 5}", ", 'controls': false") == "0 0");
  CHECK(controls(", 'controls': false", ", 'controls': {'random': 2}") == "2 0");
}

TEST_CASE("spec: files are relative to the spec, and a model that is a directory there is that directory") {
  TemporaryDirectory dir;
  std::filesystem::create_directory(dir / "model");
  write_file(dir / "S.json", R"({"model": "model", "data": "sub/D.jsonl", "interventions": [{"name": "baseline"}]})");
  const ExperimentSpec spec = load_experiment(dir / "S.json");
  CHECK(spec.model == (dir / "model").string());
  CHECK(spec.data == dir / "sub/D.jsonl");
  CHECK(spec.base_dir == dir.path());
  write_file(dir / "S.json", R"({"model": "org/model", "data": "/D.jsonl", "interventions": [{"name": "baseline"}]})");
  CHECK(load_experiment(dir / "S.json").model == "org/model");
  CHECK(load_experiment(dir / "S.json").data == "/D.jsonl");
  write_file(dir / "judge.py", "");
  write_file(dir / "S.json", R"({"model": "m", "data": "D", "interventions": [{"name": "baseline"}], "generate": {},
      "metrics": ["judge:j"], "judges": {"j": {"command": ["judge.py", "judge.py", "-v", "none.py"]}}})");
  const JudgeSpec judge = load_experiment(dir / "S.json").judges.at(0);
  CHECK(judge.command == std::vector<std::string>{"judge.py", (dir / "judge.py").string(), "-v", "none.py"});
  CHECK(judge.given == std::vector<std::string>{"judge.py", "judge.py", "-v", "none.py"});
  write_file(dir / "S.json", R"({"model": "m", "data": "-", "interventions": [{"name": "baseline"}]})");
  CHECK(error_of([&] { load_experiment(dir / "S.json"); }) ==
        (dir / "S.json").string() +
            ": data: expected a file (it is read again when the run is continued), found \"-\"");
  write_file(dir / "S.json", R"({"model": 3, "data": "D"})");
  CHECK(error_of([&] { load_experiment(dir / "S.json"); }) ==
        (dir / "S.json").string() + ": model: expected a string, found 3");
  write_file(dir / "S.json", "[]");
  CHECK(error_of([&] { load_experiment(dir / "S.json"); }) ==
        (dir / "S.json").string() + ": expected an object, found an array");
  CHECK(error_of([&] { load_experiment(dir / "none.json"); }).starts_with((dir / "none.json").string()));
}

TEST_CASE("spec: primary contrasts and margins of a schedule") {
  const auto schedule_of = [](const std::string& more) {
    const ExperimentSpec spec = spec_of(entries("{'name': 'off', 'edits': [" + ban +
                                                "]}, {'name': 'g', 'grid': {'t': [2, 3]}, 'edits': [{'op': "
                                                "'temperature', 't': '$t'}]}") +
                                        ", 'metrics': ['nll', 'kl', 'ppl'], 'controls': {'random': 1}" + more);
    RunSchedule schedule =
        make_schedule(spec, spec.metrics, plan_interventions(spec, all_interventions(spec), sample_shape(), {}));
    const json::Value written = json::parse(json::dump(schedule.to_json()), "plan.json");
    const RunSchedule read = RunSchedule::from_json(json::Ref(written, "plan.json"));
    CHECK(json::dump(read.to_json()) == json::dump(written));
    return read;
  };
  const auto texts = [](const std::vector<std::string>& list) { return joined(list, " "); };
  RunSchedule schedule = schedule_of("");
  CHECK(texts(schedule.primary.interventions) == "off g/t=2 g/t=3");
  CHECK(texts(schedule.primary.metrics) == "nll ppl");  // kl is above 0 by definition
  CHECK(schedule.margins.empty());
  schedule = schedule_of(", 'primary': {'interventions': ['g']}, 'equivalence': {'margin': 0.5, 'nll': {'margin': 2}}");
  CHECK(texts(schedule.primary.interventions) == "g/t=2 g/t=3");
  CHECK(texts(schedule.primary.metrics) == "nll ppl");
  CHECK(schedule.margins == std::map<std::string, double>{{"kl", 0.5}, {"nll", 2}, {"ppl", 0.5}});
  schedule = schedule_of(", 'primary': {'interventions': ['g/t=3', 'off'], 'metrics': ['kl']}");
  CHECK(texts(schedule.primary.interventions) == "off g/t=3");
  CHECK(texts(schedule.primary.metrics) == "kl");
  CHECK(schedule.interventions.size() == 5);
}

TEST_CASE("spec: two specs that mean the same run resolve to the same") {
  const auto resolved = [](const std::string& more) { return json::dump(resolved_json(spec_of(more))); };
  const std::string off = "{'name': 'off', 'edits': [" + ban + "]";
  CHECK(resolved(entries(off + "}")) ==
        resolved(entries(off + ", 'controls': true, 'description': 'x'}") +
                 ", 'title': 't', 'question': 'q?', 'seeds': [0], 'baseline': 'baseline', 'traces': false, "
                 "'resamples': 10000, 'seed': 0, 'generate': "
                 "null, 'controls': {'random': 4}"));
  for (const char* other : {", 'seeds': [1]", ", 'generate': {}", ", 'resamples': 9", ", 'seed': 1", ", 'traces': true",
                            ", 'controls': false", ", 'split': {'test': 'b'}", ", 'metrics': ['kl']",
                            ", 'audit': {'experts': {'2': [1]}}", ", 'primary': {'interventions': ['off']}",
                            ", 'equivalence': {'margin': 1}", ", 'detect': {'m': {'contrast': 'A:B'}}"})
    CHECK_MESSAGE(resolved(entries(off + "}")) != resolved(entries(off + "}") + other), other);
}

TEST_CASE("spec: audits of all experts, and of several stages") {
  const ExperimentSpec all = spec_of(entries() + ", 'audit': 'all'");
  REQUIRE(all.audit->edits.size() == 1);
  CHECK(all.audit->all);
  CHECK(json::dump(*resolved_json(all).find("audit")) == R"({"op":"deactivate","mode":"ban","experts":"all"})");
  const ExperimentSpec some = spec_of(entries() + ", 'audit': {'experts': 'all', 'layers': '2', 'mode': 'zero'}");
  CHECK(json::dump(*resolved_json(some).find("audit")) ==
        R"({"op":"scale_expert","by":0,"experts":"all","layers":"2"})");
  CHECK(rankings_of(some).empty());

  const ExperimentSpec stages =
      spec_of(entries() +
              ", 'detect': {'m': {'contrast': 'A:B'}, 'n': {'contrast': 'B:A', 'contributions': true}}, "
              "'split': {'detect': 'a', 'test': 'b'}, "
              "'audit': {'from': ['detect:m', 'detect:n'], 'top': 3, 'by': 'direct'}");
  REQUIRE(stages.audit->edits.size() == 2);
  CHECK_FALSE(stages.audit->all);
  CHECK(rankings_of(stages).size() == 2);
  CHECK(rankings_of(stages)[1].detect == "n");
  CHECK(json::dump(*resolved_json(stages).find("audit")->items()[1].find("experts")) ==
        R"({"from":"detect:n","top":3,"by":"direct"})");
  CHECK_FALSE(stages.detect[0].contributions);
  CHECK(stages.detect[1].contributions);
  const json::Value resolved = resolved_json(stages);
  CHECK_FALSE(resolved.find("detect")->find("m")->find("contributions"));  // as specs before it had the key
  CHECK(resolved.find("detect")->find("n")->find("contributions")->boolean());
}
