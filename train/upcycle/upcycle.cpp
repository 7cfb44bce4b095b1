#include "train/upcycle/upcycle.h"

#include <cstdio>
#include <exception>
#include <optional>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "eval/store/work_directory.h"
#include "loaders/families/family.h"
#include "loaders/gguf/tokenizer_files.h"
#include "loaders/model/new_checkpoint.h"

namespace signalbox::train {

namespace {

namespace fs = std::filesystem;

struct Stop {};  // the user has asked for it

// The records cannot be used: work that began with them can never be gone on with.
struct Refused {
  std::exception_ptr why;
};

const char* torch_name(DType dtype) {
  return dtype == DType::f32 ? "float32" : dtype == DType::f16 ? "float16" : "bfloat16";
}

void make_directory(const fs::path& dir) {
  std::error_code code;
  fs::create_directories(dir, code);
  if (!fs::is_directory(dir))
    throw Error(dir.string(), "cannot make the directory" + (code ? ": " + code.message() : std::string()));
}

// All that work whose records were refused has made, so that the corrected command finds its place free.
void remove_begun(const fs::path& dir) {
  std::error_code ignored;
  for (const char* name : {carving_dir, dense_dir, own_text_file, "log.txt", manifest_file})
    fs::remove_all(dir / name, ignored);
  fs::remove(dir, ignored);  // where nothing else is in it
}

void write_texts(const gguf::TokenizerTexts& texts, const fs::path& dir) {
  write_file_atomically(dir / "tokenizer.json", texts.tokenizer_json);
  write_file_atomically(dir / "tokenizer_config.json", texts.tokenizer_config_json);
  write_file_atomically(dir / "generation_config.json", texts.generation_config_json);
}

class Work {
 public:
  Work(const Upcycling& upcycling, WorkDirectory& work)
      : up_(upcycling),
        work_(work),
        dense_(upcycling.file),
        tokenizer_(gguf::tokenizer_texts(*upcycling.file, dense_.shape().n_vocab)),
        carving_(upcycling.dir / carving_dir),
        pool_(upcycling.threads) {}

  void run() {
    if (fs::exists(up_.dir / "config.json")) return;  // all is there but the manifest's word for it
    make_directory(carving_);
    write_dense();
    Session session = open_session((up_.dir / dense_dir).string(), up_.open);
    session.options.batch = up_.batch;
    const UpcycleTexts texts = read_texts(session);
    if (texts.moved > 0)
      up_.on_note(std::to_string(texts.moved) + " records of the held-out fifth share " + std::to_string(shared_run) +
                  " tokens in a row with others and were carved on instead");
    const json::Value config = families::carved_config(dense_.shape(), carved_shape(), torch_name(up_.dtype));
    const Model model = families::read_config(config, "config.json").model;
    const std::vector<CarvedLayer> layers = carve(session, texts);
    const Judgement judgement = judge_layers(session, model, layers, texts);
    CardInputs card{up_.file.get(), up_.file_hash, &up_, &texts, &layers, &judgement};
    write_upcycle_files(card, up_.dir);
    write_texts(tokenizer_, up_.dir);
    BuiltModel built = routed_model(session, model, layers, up_.carve.layout, up_.dtype, true);
    write(config, values_of(built), up_.dir, "writing " + up_.dir.string());
  }

  void clean() {
    std::error_code code;
    fs::remove_all(carving_, code);
    if (code) throw Error(carving_.string(), "cannot remove what is done: " + code.message());
  }

 private:
  void tell(const std::string& stage, int64_t done, int64_t total, const char* unit) const {
    if (up_.interrupted && *up_.interrupted) throw Stop();
    up_.on_progress(stage, done, total, unit);
  }

  families::CarvedShape carved_shape() const {
    const CarveLayout& layout = up_.carve.layout;
    const int64_t count = layout.neurons(dense_.shape().d_ff);
    return {layout.routed(), layout.active, count, layout.shared * count};
  }

  void write(const json::Value& config, const TensorValues& values, const fs::path& dir, const std::string& stage) {
    write_checkpoint(dir, config, up_.dtype, values, [&](uint64_t done, uint64_t total) {
      constexpr uint64_t megabyte = 1'000'000;
      tell(stage, static_cast<int64_t>(done / megabyte), static_cast<int64_t>(total / megabyte), "MB");
    });
  }

  void write_dense() {
    const fs::path dir = up_.dir / dense_dir;
    if (fs::exists(dir / "config.json")) return;
    make_directory(dir);
    write_texts(tokenizer_, dir);
    write(
        families::dense_config(dense_.shape(), torch_name(up_.dtype)),
        [&](const TensorPlace& place, std::span<float> out) { dense_.values(place, out); }, dir,
        "writing the dense model");
    work_.log("dense model written");
  }

  UpcycleTexts read_texts(const Session& session) {
    if (up_.data) return usable(session, *up_.data);
    const fs::path file = up_.dir / own_text_file;
    if (!fs::exists(file)) {
      const int32_t first = static_cast<int32_t>(dense_.shape().bos.value_or(dense_.shape().eos.value_or(0)));
      RunOptions run = session.options;
      run.interrupted = up_.interrupted;
      const int64_t length = std::min(up_.own_length, dense_.shape().max_positions);
      const auto progress = [&](int64_t done, int64_t total) { tell("writing text", done, total, "tokens"); };
      if (!write_own_text(session, first, up_.own_records, length, up_.carve.seed, run, progress, file)) throw Stop();
      work_.log("text written by the dense model");
    }
    return usable(session, read_records(file.string()));
  }

  UpcycleTexts usable(const Session& session, std::vector<Record> data) const {
    try {
      return upcycle_texts(session, std::move(data), up_.evaluation, up_.carve.seed);
    } catch (const Error&) {
      throw Refused{std::current_exception()};
    }
  }

  std::vector<CarvedLayer> carve(const Session& session, const UpcycleTexts& texts) {
    std::vector<CarvedLayer> layers;
    std::unique_ptr<FfnInputs> inputs;
    const int64_t n = session.model.n_layers();
    constexpr int64_t parts = 6;  // steps of carve_layer and its end
    for (int64_t l = 0; l < n; ++l) {
      const fs::path file = carving_ / ("layer-" + std::to_string(l) + ".safetensors");
      if (!fs::exists(file)) {
        if (!inputs) inputs = read_inputs(session, texts);
        int64_t step = l * parts;
        const auto told = [&] { tell("carving", ++step, n * parts, "steps"); };
        save_layer(carve_layer(session, *inputs, l, up_.carve, pool_, told), file);
        told();
        work_.log("layer " + std::to_string(l) + " carved");
      }
      layers.push_back(load_layer(file));
    }
    return layers;
  }

  std::unique_ptr<FfnInputs> read_inputs(const Session& session, const UpcycleTexts& texts) {
    const std::vector<Job>& jobs = texts.calibration_jobs.jobs;
    auto inputs = std::make_unique<FfnInputs>(session, jobs, carving_);
    if (inputs->bytes() > int64_t{1} << 30)
      up_.on_note("what the blocks read takes " + gigabytes(inputs->bytes()) + " in " + carving_.string() +
                  " until they are carved");
    RunEvents events;
    events.on_progress = [&](int64_t done) { tell("running the dense model", done, inputs->n_tokens(), "tokens"); };
    session.run(jobs, session.options, events, inputs.get());
    return inputs;
  }

  Judgement judge_layers(const Session& session, const Model& model, const std::vector<CarvedLayer>& layers,
                         const UpcycleTexts& texts) {
    JudgeInputs inputs;
    inputs.dense = &session;
    inputs.carved = &model;
    inputs.layers = &layers;
    inputs.texts = &texts;
    inputs.layout = up_.carve.layout;
    inputs.dtype = up_.dtype;
    inputs.seed = up_.carve.seed;
    inputs.threads = up_.threads;
    inputs.run = session.options;
    inputs.directory = carving_;
    inputs.on_progress = [&](const std::string& stage, int64_t done, int64_t total, const char* unit) {
      tell(stage, done, total, unit);
    };
    inputs.on_note = up_.on_note;
    Judgement judgement = judge(inputs);
    work_.log("judged");
    return judgement;
  }

  const Upcycling& up_;
  WorkDirectory& work_;
  gguf::DenseModel dense_;
  gguf::TokenizerTexts tokenizer_;
  fs::path carving_;
  ThreadPool pool_;
};

}  // namespace

void check_upcycling(const Upcycling& upcycling) {
  const gguf::DenseModel dense(upcycling.file);
  gguf::tokenizer_texts(*upcycling.file, dense.shape().n_vocab);
  check_layout(upcycling.carve.layout, dense.shape().d_ff);
}

UpcycleEnd upcycle(const Upcycling& upcycling) {
  check_upcycling(upcycling);
  Manifest manifest = upcycling.manifest;
  manifest.schema = upcycle_schema;
  std::optional<WorkDirectory> directory(std::in_place, upcycling.dir, std::move(manifest));
  if (directory->complete()) return UpcycleEnd::was_complete;
  try {
    Work work(upcycling, *directory);
    work.run();
    work.clean();
  } catch (const Stop&) {
    directory->finish(RunStatus::interrupted);
    return UpcycleEnd::interrupted;
  } catch (const Refused& refused) {
    directory.reset();
    remove_begun(upcycling.dir);
    std::rethrow_exception(refused.why);
  }
  directory->finish(RunStatus::complete);
  return UpcycleEnd::complete;
}

}  // namespace signalbox::train
