// Quantised weights: blocks against numpy's (int_blocks.py), checkpoints of every family, and the command.
#include <doctest/doctest.h>

#include <bit>
#include <cstring>
#include <filesystem>

#include "base/csv.h"
#include "base/error.h"
#include "base/int_blocks.h"
#include "base/json.h"
#include "base/mxfp4.h"
#include "base/safetensors.h"
#include "engine/matrix_values.h"
#include "engine/resident_weights.h"
#include "engine/weight_slopes.h"
#include "loaders/model/load.h"
#include "loaders/model/quantized.h"
#include "loaders/model/rewrite.h"
#include "loaders/open.h"
#include "loaders/synthetic/make_model.h"
#include "tests/docs.h"
#include "tests/memory_sink.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::loaders;
using namespace signalbox::test;

namespace {

namespace fs = std::filesystem;

// The values of a block after a round through `to`.
std::vector<float> through(DType to, const std::vector<float>& values) {
  std::vector<float> out(32);
  uint8_t codes[32];
  if (to == DType::int8) {
    const uint8_t scale = int8_of_floats(values.data(), codes);
    floats_of_int8(codes, scale, out.data());
  } else if (to == DType::int4) {
    const uint16_t scale = int4_of_floats(values.data(), codes);
    floats_of_int4(codes, scale, out.data());
  } else {
    const uint8_t scale = mxfp4_of_floats(values.data(), codes);
    floats_of_mxfp4(codes, scale, out.data());
  }
  return out;
}

QuantizedCheckpoint quantize(const std::string& model, DType to, const fs::path& directory, bool keep_head = false) {
  const ResolvedModel resolved = resolve_model(model);
  const LoadedModel loaded = load_model(resolved);
  fs::create_directories(directory);
  QuantizeOptions options;
  options.to = to;
  options.keep_head = keep_head;
  options.threads = 2;
  return write_quantized(*resolved.files, loaded.family, loaded.model, loaded.weights, options, directory);
}

// A checkpoint of the family's example shape, whose rows are whole blocks.
std::string made_model(const std::string& family, const std::string& dtype, const fs::path& directory) {
  const std::string spec = R"({"family":")" + family + R"(","dtype":")" + dtype + R"(","tokenizer":"bytes","seed":3})";
  synthetic::make_model(json::parse(spec, "spec"), "spec", directory);
  return directory.string();
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::vector<float> logits_of(engine::Session& session) {
  Job job;
  job.prompt = std::make_shared<Prompt>("a", std::vector<int32_t>{5, 9, 17, 40, 3, 11, 8, 21});
  job.task = Generate{0, {}};
  MemorySink sink(PointSet::parse("logits,*.router.ids", session.shape));
  REQUIRE(session.run({job}, session.options, {}, &sink));
  return sink.samples[0]["logits"].data;
}

}  // namespace

TEST_CASE("quantise: blocks are those of an exhaustive search in numpy") {
  const json::Value cases = json::parse_file(source_dir() / "tests/compress/golden/int_blocks.json");
  for (size_t i = 0; i < cases.items().size(); ++i) {
    CAPTURE(i);
    const json::Value& one = cases.items()[i];
    std::vector<float> values;
    for (const json::Value& v : one.find("values")->items())
      values.push_back(std::bit_cast<float>(static_cast<uint32_t>(std::stoul(v.string(), nullptr, 16))));
    uint8_t codes[32];
    const auto check = [&](const char* name, int scale, const std::function<int(int)>& code) {
      CAPTURE(name);
      CHECK(scale == one.find(name)->find("scale")->integer());
      for (int j = 0; j < 32; ++j) CHECK(code(j) == one.find(name)->find("codes")->items()[j].integer());
    };
    const auto nibble = [&](int j) { return codes[j / 2] >> j % 2 * 4 & 15; };
    int scale = int8_of_floats(values.data(), codes);
    check("int8", scale, [&](int j) { return static_cast<int8_t>(codes[j]); });
    scale = int4_of_floats(values.data(), codes);
    check("int4", scale, [&](int j) { return nibble(j) < 8 ? nibble(j) : nibble(j) - 16; });
    CHECK(is_int4_scale(static_cast<uint16_t>(scale)));
    scale = mxfp4_of_floats(values.data(), codes);
    if (values[0] != 0 || values[7] != 0)  // of a block of zeros any scale will do
      check("mxfp4", scale, [&](int j) { return nibble(j) == 8 ? 0 : nibble(j); });
    for (const DType to : {DType::int8, DType::int4, DType::mxfp4}) {
      const std::vector<float> once = through(to, values);
      CHECK(through(to, once) == once);  // such values keep themselves
      for (const float value : once) CHECK(float_of_bf16(bf16_of_float(value)) == value);  // bf16 holds them
    }
  }
  CHECK(!is_int4_scale(0x7f80));
  CHECK(!is_int4_scale(0x3f81));
  CHECK(is_int4_scale(0xbf88));
}

TEST_CASE("quantise: checkpoints of every family hold the blocks of their values, and run with the bits of these") {
  TemporaryDirectory scratch;
  for (const auto& [family, dtype] : {std::pair("deepseek_v2", "bf16"),
                                      {"mixtral", "f16"},
                                      {"olmoe", "f32"},
                                      {"qwen2_moe", "bf16"},
                                      {"qwen3_moe", "bf16"},
                                      {"gpt_oss", "bf16"},
                                      {"gpt_oss", "mxfp4"}}) {
    const std::string name = std::string(family) + "-" + dtype;
    CAPTURE(name);
    const std::string model = made_model(family, dtype, scratch / name);
    for (const DType to : {DType::int8, DType::int4, DType::mxfp4}) {
      const std::string label(dtype_name(to));
      CAPTURE(label);
      const fs::path dir = scratch / (name + label);
      const QuantizedCheckpoint made = quantize(model, to, dir);
      CHECK(made.quantized > 0);
      CHECK(made.odd.empty());
      const LoadedModel original = load_model(model);
      engine::Session session = open_session(dir.string(), {});
      CHECK(session.unknown_tensors.empty());
      Weights before = original.weights, after = session.weights;
      std::map<std::string, Matrix> matrices;
      std::map<std::string, Vector> vectors;
      for_each_tensor(original.model, before, [&](const TensorPlace& place) {
        if (place.matrix) matrices[weight_name(place.id)] = *place.matrix;
        if (place.vector) vectors[weight_name(place.id)] = *place.vector;
      });
      int64_t wrong = 0, quantized = 0;
      std::vector<std::vector<float>> values;
      for_each_tensor(session.model, after, [&](const TensorPlace& place) {
        if (place.vector) {
          const Vector& was = vectors.at(weight_name(place.id));
          wrong += std::memcmp(was.data, place.vector->data, static_cast<size_t>(was.n) * 4) != 0;
          return;
        }
        const std::vector<float> was = values_of(matrices.at(weight_name(place.id))), now = values_of(*place.matrix);
        if (!is_quantized(place.id.role)) {
          CHECK(place.matrix->dtype == matrices.at(weight_name(place.id)).dtype);
          wrong += was != now;
          return;
        }
        CHECK(place.matrix->dtype == to);
        ++quantized;
        for (size_t b = 0; b < was.size(); b += 32) {
          const auto at = static_cast<int64_t>(b);
          const std::vector<float> block = through(to, {was.begin() + at, was.begin() + at + 32});
          wrong += !std::equal(block.begin(), block.end(), now.begin() + at);
        }
        values.push_back(now);
        *place.matrix = {values.back().data(), DType::f32, place.rows, place.cols, place.cols, nullptr, 0};
      });
      CHECK(wrong == 0);
      CHECK(quantized == made.quantized);
      // The same values as f32 give the same bits, and so does a copy in memory.
      const std::vector<float> of_blocks = logits_of(session);
      LoadedModel moved = load_model(dir.string());
      ResidentOptions resident;
      resident.policy = LoadPolicy::copy;
      resident.mapped = moved.mapped;
      CHECK(make_resident(moved.model, moved.weights, resident).kind == WeightMemory::Kind::copied);
      session.weights = moved.weights;
      CHECK(logits_of(session) == of_blocks);
      if (session.model.tied_embeddings) after.lm_head = after.embed;
      session.weights = after;
      const std::vector<float> of_floats = logits_of(session);
      REQUIRE(of_blocks.size() == of_floats.size());
      CHECK(std::memcmp(of_blocks.data(), of_floats.data(), of_blocks.size() * 4) == 0);
    }
  }
}

TEST_CASE("quantise: what stays, what is left out, and what is refused") {
  TemporaryDirectory scratch;
  const std::string model = made_model("mixtral", "bf16", scratch / "mixtral");
  const QuantizedCheckpoint kept = quantize(model, DType::int8, scratch / "kept", true);
  const LoadedModel loaded = load_model((scratch / "kept").string());
  CHECK(loaded.format == DType::int8);
  CHECK(loaded.weights.embed.dtype != DType::int8);
  CHECK(loaded.weights.lm_head.dtype != DType::int8);
  CHECK(kept.bytes > quantize(model, DType::int8, scratch / "all").bytes);
  CHECK(kept.stored_bytes == static_cast<int64_t>(fs::file_size(scratch / "kept/model.safetensors")));

  // What changes checkpoints takes those that are not quantised, and so does quantize.
  const std::string again = error_of([&] { quantize((scratch / "all").string(), DType::int4, scratch / "again"); });
  CHECK(again.find("config.json: expected a checkpoint that is not quantised yet, found one of INT8") !=
        std::string::npos);
  const ResolvedModel resolved = resolve_model((scratch / "all").string());
  CHECK(error_of([&] {
          Rewrite(resolved.files, "mixtral", loaded.model);
        }).find("expected a checkpoint to change before it is quantised") != std::string::npos);

  // Bad files: each names what is wrong.
  const auto broken = [&](const std::string& what, const std::function<void(std::string&)>& change) {
    const fs::path dir = scratch / what;
    fs::copy(scratch / "all", dir);
    std::string config = read_file(dir / "config.json");
    change(config);
    write_file(dir / "config.json", config);
    return error_of([&] { load_model(dir.string()); });
  };
  const auto replace = [](std::string& text, const std::string& from, const std::string& to) {
    REQUIRE(text.find(from) != std::string::npos);
    text.replace(text.find(from), from.size(), to);
  };
  CHECK(broken("word", [&](std::string& c) { replace(c, "\"int8\"", "\"int7\""); })
            .find("quantization_config.format: expected \"int8\", \"int4\" or \"mxfp4\", found \"int7\"") !=
        std::string::npos);
  CHECK(broken("block", [&](std::string& c) {
          replace(c, "\"block\": 32", "\"block\": 64");
        }).find("quantization_config.block: expected 32, found 64") != std::string::npos);
  CHECK(broken("key", [&](std::string& c) {
          replace(c, "\"block\"", "\"blocks\": 1, \"block\"");
        }).find("found \"blocks\"") != std::string::npos);
  CHECK(broken("other", [&](std::string& c) { replace(c, "\"int8\"", "\"int4\""); }).find("expected U8, found I8") !=
        std::string::npos);
  CHECK(broken("none", [&](std::string& c) {
          replace(c, "\"signalbox\"", "\"gptq\"");
        }).find("found quant_method \"gptq\"") != std::string::npos);
}

TEST_CASE("quantise: the command writes a checkpoint, its quality and its facts, or nothing") {
  TemporaryDirectory scratch;
  const std::string records = (source_dir() / "tests/compress/golden/records.jsonl").string();
  const std::string model = made_model("mixtral", "bf16", scratch / "mixtral"), out = (scratch / "q").string();
  const Ran made = run_command(binary() + " quantize " + model + " --to int4 --data " + records + " --out " + out);
  REQUIRE_MESSAGE(made.code == 0, made.err);
  CHECK(made.out.find("route agreement") != std::string::npos);
  CHECK(made.out.find("matrices of int4") != std::string::npos);
  const CsvTable table = CsvTable::read(scratch / "q/quality.csv");
  REQUIRE(table.n_rows() == 2);
  CHECK(table.text(0, table.column("plan")) == "original");
  CHECK(table.text(1, table.column("plan")) == "int4");
  CHECK(table.number(0, table.column("kl")) == 0);
  CHECK(table.number(1, table.column("kl")) > 0);
  CHECK(table.number(1, table.column("bytes")) < table.number(0, table.column("bytes")));

  // Perplexity as `score` has it, and routes as two traces have them.
  const auto nll = [&](const std::string& of) {
    const Ran scored = run_command(binary() + " score " + of + " --json --quiet --input " + records);
    REQUIRE_MESSAGE(scored.code == 0, scored.err);
    double sum = 0, n = 0;
    for (const std::string& line : lines_of(scored.out)) {
      if (line.empty()) continue;
      const json::Value scores = json::parse(line, "score");
      for (const json::Value& p : scores.find("logprobs")->items()) sum += p.real(), ++n;
    }
    return std::exp(-sum / n);
  };
  CHECK(table.number(0, table.column("ppl")) == doctest::Approx(nll(model)).epsilon(1e-9));
  CHECK(table.number(1, table.column("ppl")) == doctest::Approx(nll(out)).epsilon(1e-9));
  std::vector<std::vector<uint8_t>> ids;
  std::vector<int64_t> shape;
  for (const std::string& of : {model, out}) {
    const std::string dir = (scratch / ("t" + std::to_string(ids.size()))).string();
    const Ran traced = run_command(binary() + " trace " + of + " --input " + records + " --points router.ids --out " +
                                   dir + " --quiet");
    REQUIRE_MESSAGE(traced.code == 0, traced.err);
    const auto file = safetensors::File::open(dir + "/trace.safetensors");
    for (const auto& info : file->tensors()) {
      if (info.name != "router.ids") continue;
      const auto* bytes = reinterpret_cast<const uint8_t*>(file->data(info));
      ids.emplace_back(bytes, bytes + info.bytes);
      shape = info.shape;
    }
  }
  REQUIRE(ids.size() == 2);
  REQUIRE(ids[0].size() == ids[1].size());
  double both = 0;
  const auto k = static_cast<size_t>(shape.back());
  for (size_t i = 0; i < ids[0].size(); i += k)
    for (size_t a = i; a < i + k; ++a)
      for (size_t b = i; b < i + k; ++b) both += ids[0][a] == ids[1][b];
  CHECK(table.number(1, table.column("route_agreement")) ==
        doctest::Approx(both / static_cast<double>(ids[0].size())).epsilon(1e-12));

  const json::Value facts = json::parse_file(scratch / "q/quantize.json");
  CHECK(facts.find("format")->string() == "int4");
  CHECK(facts.find("model")->string() == model);
  CHECK(fs::exists(scratch / "q/tokenizer.json") == fs::exists(fs::path(model) / "tokenizer.json"));

  for (const auto& [words, code, message] :
       {std::tuple(" quantize " + model + " --to int8 --out " + out, 1, "expected a new directory for --out"),
        std::tuple(" quantize " + model + " --to int5 --out " + out + "2", 2, "--to"),
        std::tuple(" quantize " + model + " --to int8 --adapter x --out " + out + "2", 2, "--adapter: expected"),
        std::tuple(" quantize " + out + " --to int8 --out " + out + "2", 1, "expected a checkpoint that is not")}) {
    const Ran refused = run_command(binary() + words);
    CHECK(refused.code == code);
    CHECK_MESSAGE(refused.err.find(message) != std::string::npos, refused.err);
    CHECK(!fs::exists(out + "2"));
  }
  int64_t left = 0;
  for (const auto& entry : fs::directory_iterator(scratch.path()))
    left += entry.path().string().find(".part-") != std::string::npos;
  CHECK(left == 0);
}

TEST_CASE("docs: quantisation, as pasted" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const std::string page = page_of("docs/quantisation.md");
  TemporaryDirectory scratch;
  const Ran ran = paste(fenced_blocks(page, "sh").front(), scratch.path());
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  CHECK(line_not_printed(page, "agreement", ran.out) == "");
}
