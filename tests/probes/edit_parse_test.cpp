// What is wrong with an edit whatever the trace or the tokens: keys, types, places, conflicts.
#include "tests/probes/sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

namespace {

std::string one_error(const std::string& edit) {
  const std::string text = plan_error("{'edits': [" + edit + "]}");
  const std::string start = "E.json: edits[0]";
  REQUIRE_MESSAGE(text.starts_with(start), text);
  return text.substr(start.size());
}

}  // namespace

TEST_CASE("edits: keys, types and values are checked, naming the key") {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"3", ": expected an object, found 3"},
      {"{}", ": expected the key \"op\", found none"},
      {"{'op': 'ban'}",
       ".op: expected \"deactivate\", \"activate\", \"misroute\", \"replay\", \"top_k\", \"temperature\", "
       "\"scale_expert\", \"scale_shared\", \"ablate\", \"add\" or \"patch\", found \"ban\""},
      {"{'op': 3}", ".op: expected \"deactivate\""},
      {"{'op': 'deactivate', 'experts': [1]}", ": expected the key \"mode\" for deactivate, found none"},
      {"{'op': 'deactivate', 'mode': 'force', 'experts': [1]}",
       ".mode: expected \"ban\", \"steermoe\" or \"bias\", found \"force\""},
      {"{'op': 'activate', 'mode': 'ban', 'experts': [1]}",
       ".mode: expected \"force\", \"steermoe\" or \"bias\", found \"ban\""},
      {"{'op': 'deactivate', 'mode': 'ban'}", ": expected the key \"experts\" for deactivate ban, found none"},
      {"{'op': 'deactivate', 'mode': 'ban', 'experts': []}", ".experts: expected at least one expert, found none"},
      {"{'op': 'deactivate', 'mode': 'ban', 'experts': {}}", ".experts: expected at least one expert, found none"},
      {"{'op': 'deactivate', 'mode': 'ban', 'experts': {'2': []}}",
       ".experts: expected at least one expert in layer 2, found none"},
      {"{'op': 'deactivate', 'mode': 'ban', 'experts': [1], 'by': 1}",
       ": unknown key \"by\" for deactivate ban (known: op, mode, experts, layers, tokens, seed, weights)"},
      {"{'op': 'deactivate', 'mode': 'bias', 'experts': [1]}",
       ": expected the key \"by\" for deactivate bias, found none"},
      {"{'op': 'deactivate', 'mode': 'bias', 'by': '1', 'experts': [1]}", ".by: expected a number, found \"1\""},
      {"{'op': 'deactivate', 'mode': 'bias', 'by': 1e300, 'experts': [1]}",
       ".by: expected a number that a float can hold, found 1e+300"},
      {"{'op': 'deactivate', 'mode': 'ban', 'experts': [8]}", ".experts: expected experts below 8 in layer 1, found 8"},
      {"{'op': 'deactivate', 'mode': 'ban', 'experts': [-1]}", ".experts[0]: expected an integer from 0 to"},
      {"{'op': 'deactivate', 'mode': 'ban', 'experts': [1.0]}", ".experts[0]: expected an integer, found 1.0"},
      {"{'op': 'deactivate', 'mode': 'ban', 'experts': [3, 1, 3]}",
       ".experts: expected each expert once, found 3 twice"},
      {"{'op': 'deactivate', 'mode': 'ban', 'experts': 'all'}",
       ".experts: expected a list of experts, an object of lists"},
      {"{'op': 'deactivate', 'mode': 'ban', 'experts': {'03': [1]}}",
       ".experts: expected layers as keys, or \"from\", found the key \"03\""},
      {"{'op': 'deactivate', 'mode': 'ban', 'experts': {'0': [1]}}",
       ".experts: expected layers with a router, found layer 0"},
      {"{'op': 'deactivate', 'mode': 'ban', 'experts': {'6': [1]}}", ".experts: expected layers below 6, found 6"},
      {"{'op': 'deactivate', 'mode': 'ban', 'experts': {'3': [1]}, 'layers': '3'}",
       ".layers: expected no layers beside experts by layer, which name their own, found both"},
      {"{'op': 'top_k', 'k': 1, 'layers': '0'}", ".layers: expected layers with a router, found layer 0"},
      {"{'op': 'top_k', 'k': 1, 'layers': '0-0'}", ".layers: expected a layer with a router, found none"},
      {"{'op': 'top_k', 'k': 1, 'layers': '6'}", ".layers: expected layers below 6, found 6"},
      {"{'op': 'top_k', 'k': 1, 'layers': '2-6'}", ".layers: expected layers below 6, found 6"},
      {"{'op': 'top_k', 'k': 1, 'layers': ''}", ".layers: expected \"all\" or layers such as \"3-20,25\", found \"\""},
      {"{'op': 'top_k', 'k': 1, 'layers': '3,'}", ".layers: expected \"all\" or layers"},
      {"{'op': 'top_k', 'k': 1, 'layers': '3-'}", ".layers: expected \"all\" or layers"},
      {"{'op': 'top_k', 'k': 1, 'layers': '-3'}", ".layers: expected \"all\" or layers"},
      {"{'op': 'top_k', 'k': 1, 'layers': '03'}", ".layers: expected \"all\" or layers"},
      {"{'op': 'top_k', 'k': 1, 'layers': '3 '}", ".layers: expected \"all\" or layers"},
      {"{'op': 'top_k', 'k': 1, 'layers': 3}", ".layers: expected a string, found 3"},
      {"{'op': 'top_k', 'k': 1, 'layers': '4-2'}", ".layers: expected a range that ascends, found \"4-2\""},
      {"{'op': 'top_k', 'k': 1, 'layers': '2-4,3'}", ".layers: expected each layer once, found 3 twice"},
      {"{'op': 'top_k', 'k': 0}", ".k: expected an integer from 1 to"},
      {"{'op': 'top_k', 'k': 9}", ".k: layer 1: expected at most 8 experts, found 9"},
      {"{'op': 'top_k', 'k': 1, 'experts': [1]}", ": unknown key \"experts\" for top_k"},
      {"{'op': 'top_k', 'k': 1, 'weights': 'softmax'}",
       ".weights: expected \"model\", \"keep_scores\", \"renormalize\", \"preserve_mass\", \"keep_slot\", \"hole\" or "
       "\"recorded\", found \"softmax\""},
      {"{'op': 'top_k', 'k': 1, 'weights': 'recorded'}",
       ".weights: expected \"recorded\" only for replay, found it for top_k"},
      {"{'op': 'top_k', 'k': 3, 'weights': 'keep_slot'}",
       ": layer 1: expected no more slots than the original route's 2"},
      {"{'op': 'temperature', 't': 0}", ".t: expected a number above 0, found 0"},
      {"{'op': 'temperature', 't': 1e-60}", ".t: expected a number above 0"},
      {"{'op': 'scale_expert', 'by': 2}", ": expected the key \"experts\" for scale_expert, found none"},
      {"{'op': 'scale_expert', 'by': 2, 'experts': [1], 'weights': 'hole'}",
       ": unknown key \"weights\" for scale_expert"},
      {"{'op': 'scale_shared', 'by': 2, 'layers': '5'}",
       ".layers: expected layers with a shared expert, found layer 5"},
      {"{'op': 'scale_shared', 'by': 2, 'experts': [1]}", ": unknown key \"experts\" for scale_shared"},
      {"{'op': 'misroute', 'policy': 'worst', 'within': 'groups'}",
       ".within: expected \"kept_groups\", found \"groups\""},
      {"{'op': 'misroute', 'policy': 'shift', 'by': 1, 'within': 'kept_groups'}",
       ": unknown key \"within\" for misroute shift"},
      {"{'op': 'misroute', 'policy': 'worst', 'within': 'kept_groups'}",
       ".within: layer 1: expected a router that keeps some of several groups of experts, found one that drops none"},
      {"{'op': 'top_k', 'k': 1, 'tokens': {'near_tie_below': -1}}",
       ".tokens.near_tie_below: expected a number of at least 0"},
      {"{'op': 'ablate', 'point': 'resid_out', 'value': 'zero', 'tokens': {'near_tie_below': 1}}",
       ".tokens.near_tie_below: expected an edit of the router, found one of the point resid_out"},
      {"{'op': 'misroute', 'policy': 'best'}", ".policy: expected \"next_best\", \"swap_last\""},
      {"{'op': 'misroute', 'policy': 'shift'}", ": expected the key \"by\" for misroute shift, found none"},
      {"{'op': 'misroute', 'policy': 'shift', 'by': 0.5}", ".by: expected an integer, found 0.5"},
      {"{'op': 'misroute', 'policy': 'worst', 'by': 1}", ": unknown key \"by\" for misroute worst"},
      {"{'op': 'misroute', 'policy': 'next_best', 'experts': [1]}", ": unknown key \"experts\" for misroute next_best"},
      {"{'op': 'misroute', 'policy': 'gumbel'}", ": expected the key \"tau\" for misroute gumbel, found none"},
      {"{'op': 'misroute', 'policy': 'gumbel', 'tau': -1}", ".tau: expected a number of at least 0, found -1"},
      {"{'op': 'misroute', 'policy': 'random', 'exclude_original': 1}",
       ".exclude_original: expected true or false, found 1"},
      {"{'op': 'misroute', 'policy': 'fixed'}", ": expected the key \"experts\" for misroute fixed, found none"},
      {"{'op': 'misroute', 'policy': 'fixed', 'experts': [1]}",
       ": layer 1: expected 2 experts for fixed, one a slot, found 1"},
      {"{'op': 'misroute', 'policy': 'frequency_matched'}", ": expected the key \"rates\""},
      {"{'op': 'replay'}", ": expected the key \"trace\" for replay, found none"},
      {"{'op': 'replay', 'trace': 't', 'past': 'stop'}", ".past: expected \"leave\", found \"stop\""},
      {"{'op': 'ablate', 'point': 'resid_in'}", ": expected the key \"value\" for ablate, found none"},
      {"{'op': 'ablate', 'point': 'resid', 'value': 'zero'}",
       ".point: expected a point that can be written (nearest: resid_in, resid_mid, resid_out), found \"resid\""},
      {"{'op': 'ablate', 'point': 'nowhere', 'value': 'zero'}",
       ".point: expected a point that can be written (embed, resid_in, attn.q, attn.k, attn.v, attn.z, attn.out, "
       "resid_mid, router.in, expert.in, ... and 8 more: docs/probes.md lists them), found \"nowhere\""},
      {"{'op': 'ablate', 'point': 'router.ids', 'value': 'zero'}", ".point: expected a point that can be written"},
      {"{'op': 'ablate', 'point': 'logits', 'value': 'zero'}", ".point: expected a point that can be written"},
      {"{'op': 'ablate', 'point': 'resid_in', 'value': 'mean'}",
       ".value: expected \"zero\", \"FILE:tensor\", a list of numbers or {\"mean_of\": TRACE}, found \"mean\""},
      {"{'op': 'ablate', 'point': 'resid_in', 'value': ':x'}", ".value: expected \"FILE:tensor\", found \":x\""},
      {"{'op': 'ablate', 'point': 'resid_in', 'value': {'mean': 'x'}}",
       ".value: unknown key \"mean\" (nearest: mean_of)"},
      {"{'op': 'ablate', 'point': 'resid_in', 'value': 'zero', 'neurons': [4]}",
       ".neurons: expected neurons below 4 of layer.0.resid_in, found 4"},
      {"{'op': 'ablate', 'point': 'expert.hidden', 'value': 'zero', 'neurons': [1, 1]}",
       ".neurons: expected each neuron once, found 1 twice"},
      {"{'op': 'ablate', 'point': 'resid_in', 'value': 'zero', 'experts': [1]}",
       ": unknown key \"experts\" for ablate"},
      {"{'op': 'ablate', 'point': 'embed', 'value': 'zero', 'layers': '1'}", ": unknown key \"layers\" for ablate"},
      {"{'op': 'ablate', 'point': 'layer.1.resid_in', 'value': 'zero', 'layers': '1'}",
       ".layers: expected no layers beside a point that names its own, found both"},
      {"{'op': 'ablate', 'point': 'layer.9.resid_in', 'value': 'zero'}", ": expected layers below 6, found 9"},
      {"{'op': 'ablate', 'point': 'moe.out', 'value': 'zero', 'layers': '0'}",
       ".layers: expected layers with a router, found layer 0"},
      {"{'op': 'ablate', 'point': 'mlp.out', 'value': 'zero', 'layers': '1'}",
       ".layers: expected layers with a dense feed-forward block, found layer 1"},
      {"{'op': 'add', 'point': 'resid_in', 'scale': 1}", ": expected the key \"vector\" for add, found none"},
      {"{'op': 'add', 'point': 'resid_in', 'vector': 'v.safetensors:x', 'neurons': [1]}", ""},
      {"{'op': 'patch', 'point': 'resid_in'}", ": expected the key \"from\" for patch, found none"},
      {"{'op': 'top_k', 'k': 1, 'tokens': {'phase': 'prompt'}}",
       ".tokens.phase: expected \"given\", \"generated\" or \"all\", found \"prompt\""},
      {"{'op': 'top_k', 'k': 1, 'tokens': {'when': 1}}",
       ".tokens: unknown key \"when\" (known: phase, span, positions, "
       "fraction, margin_below, near_tie_below)"},
      {"{'op': 'top_k', 'k': 1, 'tokens': 'given'}", ".tokens: expected an object, found \"given\""},
      {"{'op': 'top_k', 'k': 1, 'tokens': {'span': ''}}", ".tokens.span: expected the name of a span, found \"\""},
      {"{'op': 'top_k', 'k': 1, 'tokens': {'positions': '3'}}",
       ".tokens.positions: expected positions as \"BEGIN:END\""},
      {"{'op': 'top_k', 'k': 1, 'tokens': {'positions': '-1:3'}}", ".tokens.positions: expected positions as"},
      {"{'op': 'top_k', 'k': 1, 'tokens': {'positions': '3:3'}}",
       ".tokens.positions: expected a range of at least one position, found \"3:3\""},
      {"{'op': 'top_k', 'k': 1, 'tokens': {'positions': '1:2:3'}}", ".tokens.positions: expected positions as"},
      {"{'op': 'top_k', 'k': 1, 'tokens': {'fraction': 1.5}}",
       ".tokens.fraction: expected a number from 0 to 1, found 1.5"},
      {"{'op': 'top_k', 'k': 1, 'tokens': {'span': 'doc', 'phase': 'generated'}}",
       ".tokens.phase: expected \"given\" or \"all\" beside a span, for generated tokens are in no span"},
      {"{'op': 'top_k', 'k': 1, 'tokens': {'positions': ':1', 'phase': 'generated'}}",
       ".tokens.positions: expected positions from 1 on beside the phase \"generated\""},
      {"{'op': 'top_k', 'k': 1, 'tokens': {'margin_below': -1}}",
       ".tokens.margin_below: expected a number of at least 0"},
      {"{'op': 'ablate', 'point': 'resid_mid', 'value': 'zero', 'tokens': {'margin_below': 1}}",
       ".tokens.margin_below: expected a point after the router of its layer, found resid_mid"},
      {"{'op': 'ablate', 'point': 'final.normed', 'value': 'zero', 'tokens': {'margin_below': 1}}",
       ".tokens.margin_below: expected a point after the router of its layer, found final.normed"},
      {"{'op': 'ablate', 'point': 'resid_out', 'value': 'zero', 'layers': '0', 'tokens': {'margin_below': 1}}",
       ".layers: expected layers with a router, found layer 0"},
      {"{'op': 'top_k', 'k': 1, 'seed': -1}", ".seed: expected an integer from 0 to"},
  };
  for (const auto& [case_edit, expected] : cases) {
    const auto& edit = case_edit;
    CAPTURE(edit);
    if (expected.empty()) {
      CHECK(plan_error("[" + edit + "]") != "no error");
      continue;
    }
    const std::string found = one_error(edit);
    CAPTURE(found);
    CHECK(found.starts_with(expected));
  }
}

TEST_CASE("edits: the file and the list") {
  CHECK(plan_error("{'edits': [], 'name': 'x'}") == "E.json: unknown key \"name\" (known: edits)");
  CHECK(plan_error("{}") == "E.json: expected the key \"edits\", found none");
  CHECK(plan_error("{'edits': {}}") == "E.json: edits: expected an array, found an object");
  CHECK(plan_error("3") == "E.json: expected {\"edits\": [...]} or a list of edits, found 3");
  CHECK(plan_error("{'edits': [{'op': 'top_k', 'k': 1}, {'op': 'top_k', 'k': 1, 'tokens': {'phase': 1}}]}")
            .starts_with("E.json: edits[1].tokens.phase: expected"));
  CHECK(plan_of("[]")->empty());
  CHECK(plan_of("{'edits': []}")->n_edits() == 0);
  TemporaryDirectory dir;
  write_file(dir / "e.json", R"({"edits": [{"op": "top_k", "k": 1}]})");
  CHECK(EditPlan::load(dir / "e.json", sample_shape(), 0)->n_edits() == 1);
  write_file(dir / "bad.json", R"({"edits": [{"op": "top_k", "op": "top_k", "k": 1}]})");
  CHECK(error_of([&] { EditPlan::load(dir / "bad.json", sample_shape(), 0); }).find("bad.json") != std::string::npos);
  CHECK(error_of([&] { EditPlan::load(dir / "none.json", sample_shape(), 0); }).find("none.json") != std::string::npos);
}

TEST_CASE("edits: what a file can be refused for without a model") {
  TemporaryDirectory dir;
  const std::vector<std::string> spans = {"doc", "question"};
  std::vector<std::string> of_generated;
  const auto refused = [&](std::string edit) {
    for (char& c : edit)
      if (c == '\'') c = '"';
    write_file(dir / "e.json", "{\"edits\": [" + edit + "]}");
    const std::string text = error_of([&] { of_generated = check_edit_file(dir / "e.json", spans); });
    const std::string file = (dir / "e.json").string() + ": ";
    return text.starts_with(file) ? text.substr(file.size()) : text;
  };
  const std::string generated = "{'op': 'top_k', 'k': 1, 'tokens': {'phase': 'generated'}}";
  CHECK(refused(generated) == "no error");
  CHECK(of_generated == std::vector<std::string>{"edits[0]"});
  CHECK(refused("{'op': 'top_k', 'k': 1, 'tokens': {'phase': 'given'}}") == "no error");
  CHECK(of_generated.empty());
  // A dose of 0 is a point of a curve.
  CHECK(refused("{'op': 'top_k', 'k': 1, 'tokens': {'fraction': 0}}") == "no error");
  CHECK(refused("{'op': 'top_k', 'k': 1, 'tokens': {'span': 'doc'}}") == "no error");
  CHECK(refused("{'op': 'top_k', 'k': 1, 'tokens': {'span': 'dog'}}") ==
        "edits[0].tokens.span: expected a span that a record has (doc, question), found \"dog\"");
  CHECK(refused("{'op': 'top_k'}") == "edits[0]: expected the key \"k\" for top_k, found none");
  CHECK(refused("3").find("edits[0]: expected") != std::string::npos);
}

TEST_CASE("edits: a model that selects every expert is named as the cause of what no ban can do") {
  ModelShape shape = sample_shape();
  for (LayerShape& layer : shape.layers) layer.n_active = layer.n_experts;
  const auto refused = [&](const std::string& edits) {
    return error_of([&] { EditPlan::parse(json::Ref(json::parse(edits, "E"), "E.json"), ".", shape, 0); });
  };
  CHECK(refused(R"([{"op":"deactivate","mode":"ban","experts":[0]}])") ==
        "E.json: [0]: layer 1: expected at least 8 experts, found 7 of 8 that no ban removes (the model selects all 8 "
        "experts for every token: {\"op\": \"scale_expert\", \"by\": 0} takes away what an expert adds and needs no "
        "other, or put {\"op\": \"top_k\", \"k\": 7} before the ban)");
  CHECK(refused(R"([{"op":"top_k","k":7},{"op":"deactivate","mode":"ban","experts":[0]}])") == "no error");
  CHECK(refused(R"([{"op":"scale_expert","by":0,"experts":[0]}])") == "no error");
  CHECK(refused(R"([{"op":"misroute","policy":"swap_last"}])")
            .ends_with("(the model selects all 8 experts for every token)"));
}

TEST_CASE("edits: what cannot hold together is an error before the first token") {
  const std::string ban6 = "{'op': 'deactivate', 'mode': 'ban', 'experts': [0,1,2,3,4,5]}";
  const std::string ban1 = "{'op': 'deactivate', 'mode': 'ban', 'experts': [6]}";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[{'op': 'deactivate', 'mode': 'ban', 'experts': [0,1,2,3,4,5,6]}]",
       "E.json: [0]: layer 1: expected at least 2 experts, found 1 of 8 that no ban removes"},
      {"[" + ban6 + "]", "no error"},
      {"[" + ban6 + "," + ban1 + "]", "expected at least 2 experts, found 1 of 8"},
      {"[" + ban6 + ", {'op': 'top_k', 'k': 3}]", "expected at least 3 experts, found 2 of 8"},
      {"[" + ban6 + ", {'op': 'top_k', 'k': 1}," + ban1 + "]", "no error"},
      // Bans of different tokens need not meet, but each alone must leave enough.
      {"[{'op': 'deactivate', 'mode': 'ban', 'experts': [0,1,2,3,4], 'tokens': {'phase': 'given'}},"
       " {'op': 'deactivate', 'mode': 'ban', 'experts': [5,6,7], 'tokens': {'phase': 'generated'}}]",
       "no error"},
      {"[" + ban6 + ", {'op': 'deactivate', 'mode': 'ban', 'experts': [6], 'tokens': {'phase': 'given'}}]",
       "[1]: layer 1: expected at least 2 experts"},
      {"[{'op': 'deactivate', 'mode': 'ban', 'experts': {'3': [0,1,2,3]}}, {'op': 'misroute', 'policy': 'next_best'}]",
       "no error"},
      {"[{'op': 'deactivate', 'mode': 'ban', 'experts': {'3': [0,1,2,3,4]}}, {'op': 'misroute', 'policy': "
       "'next_best'}]",
       "[1]: layer 3: expected at least 4 experts for next_best, found 3 of 8 that no ban removes"},
      {"[" + ban6 + ", {'op': 'misroute', 'policy': 'swap_last'}]",
       "expected at least 3 experts for swap_last, found 2"},
      {"[{'op': 'top_k', 'k': 5}, {'op': 'misroute', 'policy': 'next_best'}]",
       "expected at least 10 experts for next_best"},
      {"[{'op': 'top_k', 'k': 7}, {'op': 'misroute', 'policy': 'random', 'exclude_original': true}]",
       "expected at least 7 experts beside the original ones, found 6"},
      {"[{'op': 'activate', 'mode': 'force', 'experts': [1,2,3]}]", "expected at most 2 forced experts, found 3"},
      {"[{'op': 'activate', 'mode': 'force', 'experts': [1,2]}, {'op': 'activate', 'mode': 'force', 'experts': [2,3]}]",
       "expected at most 2 forced experts, found 3"},
      {"[{'op': 'activate', 'mode': 'force', 'experts': [1,2,3]}, {'op': 'top_k', 'k': 3}]", "no error"},
      {"[{'op': 'activate', 'mode': 'force', 'experts': [1,2]}, {'op': 'top_k', 'k': 1}]",
       "expected at most 1 forced experts, found 2"},
      {"[{'op': 'activate', 'mode': 'force', 'experts': [6]}," + ban1 + "]",
       "E.json: [0]: layer 1: expected forced experts that no ban removes, found 6, banned by [1]"},
      {"[{'op': 'activate', 'mode': 'force', 'experts': {'1': [6]}}, {'op': 'deactivate', 'mode': 'ban', 'experts': "
       "{'2': [6]}}]",
       "no error"},
      {"[{'op': 'misroute', 'policy': 'fixed', 'experts': [6, 7]}," + ban1 + "]",
       "expected fixed experts that no ban removes, found 6"},
      {"[{'op': 'misroute', 'policy': 'fixed', 'experts': [6, 7, 1]}, {'op': 'top_k', 'k': 3}]", "no error"},
  };
  for (const auto& [case_edits, expected] : cases) {
    const auto& edits = case_edits;
    CAPTURE(edits);
    const std::string found = plan_error(edits);
    CAPTURE(found);
    CHECK(found.find(expected) != std::string::npos);
  }
}
