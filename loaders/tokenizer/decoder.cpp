#include "loaders/tokenizer/decoder.h"

#include <functional>
#include <optional>
#include <vector>

#include "loaders/tokenizer/byte_level.h"
#include "loaders/tokenizer/pattern.h"
#include "loaders/tokenizer/unicode.h"

namespace signalbox::loaders::tokenizer {
namespace {

// --- stages ----------------------------------------------------------------------------------------------------------
// A decoder is a chain of stages. A stage takes tokens and hands tokens on; some join all tokens into one, which they
// may hand on in fragments where the stages behind can take it so.

class Stage {
 public:
  virtual ~Stage() = default;
  Stage* next = nullptr;
  virtual void push(std::string token) = 0;
  virtual void end() { next->end(); }  // of the tokens; resets the stage
};

class Output : public Stage {
 public:
  explicit Output(std::string separator) : separator_(std::move(separator)) {}
  void push(std::string token) override {
    if (!first_) text += separator_;
    first_ = false;
    text += token;
  }
  void end() override { first_ = true; }
  std::string text;

 private:
  std::string separator_;
  bool first_ = true;
};

class ByteLevelStage : public Stage {
 public:
  explicit ByteLevelStage(bool fragments) : fragments_(fragments) {}
  void push(std::string token) override {
    std::string bytes;
    for (size_t pos = 0; pos < token.size();) {
      const int byte = character_byte(next_code_point(token, pos));
      if (byte < 0) {  // not of the alphabet: the token stands for itself
        bytes = token;
        break;
      }
      bytes += static_cast<char>(byte);
    }
    held_ += bytes;
    if (fragments_) flush(true);
  }
  void end() override {
    flush(false);
    Stage::end();
  }

 private:
  void flush(bool partial) {
    std::string text;
    const size_t used = append_lossy(text, held_, partial);
    held_.erase(0, used);
    if (!text.empty()) next->push(std::move(text));
  }
  bool fragments_;
  std::string held_;
};

class FuseStage : public Stage {
 public:
  explicit FuseStage(bool fragments) : fragments_(fragments) {}
  void push(std::string token) override {
    if (fragments_)
      next->push(std::move(token));
    else
      held_ += token;
  }
  void end() override {
    if (!fragments_) next->push(std::move(held_));
    held_.clear();
    Stage::end();
  }

 private:
  bool fragments_;
  std::string held_;
};

class ReplaceStage : public Stage {
 public:
  ReplaceStage(const Pattern& pattern, const std::string& content) : pattern_(pattern), content_(content) {}
  void push(std::string token) override {
    std::string out;
    size_t done = 0;
    for (const ByteRange& match : pattern_.find_all(token)) {
      out.append(token, done, match.begin - done);
      out += content_;
      done = match.end;
    }
    out.append(token, done);
    next->push(std::move(out));
  }

 private:
  const Pattern& pattern_;
  const std::string& content_;
};

// "<0x0A>" is the byte 0A (also "<0x+A>": the reference reads a sign).
std::optional<char> byte_of(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return std::nullopt;
  int value = 0;
  for (size_t i = token[3] == '+' ? 4 : 3; i < 5; ++i) {
    const char c = token[i];
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) return std::nullopt;
    value = value * 16 + digit;
  }
  return static_cast<char>(value);
}

// A run of byte tokens is one token when it is valid UTF-8, else one U+FFFD a byte. So nothing of a run is final before
// its end.
class ByteFallbackStage : public Stage {
 public:
  void push(std::string token) override {
    if (const auto byte = byte_of(token)) {
      run_ += *byte;
      return;
    }
    flush();
    next->push(std::move(token));
  }
  void end() override {
    flush();
    Stage::end();
  }

 private:
  void flush() {
    if (run_.empty()) return;
    if (first_invalid_utf8(run_) == std::string_view::npos)
      next->push(run_);
    else
      for (size_t i = 0; i < run_.size(); ++i) next->push("\uFFFD");
    run_.clear();
  }
  std::string run_;
};

// Takes up to `start` and `stop` characters `content` off the ends of each token. Behind a stage that joins all tokens
// (whole), off the beginning of the whole text.
class StripStage : public Stage {
 public:
  StripStage(char32_t content, int64_t start, int64_t stop, bool whole)
      : content_(content), start_(start), stop_(stop), whole_(whole) {}
  void push(std::string token) override {
    if (!whole_) done_ = 0;
    size_t begin = 0, end = token.size();
    while (done_ < start_ && begin < end) {
      size_t pos = begin;
      if (next_code_point(token, pos) != content_) {
        done_ = start_;
        break;
      }
      begin = pos;
      ++done_;
    }
    for (int64_t i = 0; i < stop_ && end > begin; ++i) {
      size_t pos = end;
      if (previous_code_point(token, pos) != content_) break;
      end = pos;
    }
    next->push(token.substr(begin, end - begin));
  }
  void end() override {
    done_ = 0;
    Stage::end();
  }

 private:
  char32_t content_;
  int64_t start_, stop_, done_ = 0;
  bool whole_;
};

class MetaspaceStage : public Stage {
 public:
  MetaspaceStage(char32_t replacement, bool prefixed) : replacement_(replacement), prefixed_(prefixed) {}
  void push(std::string token) override {
    std::string out;
    for (size_t pos = 0; pos < token.size();) {
      const char32_t c = next_code_point(token, pos);
      if (c != replacement_)
        append_utf8(out, c);
      else if (!first_ || !prefixed_)
        out += ' ';
    }
    first_ = false;
    next->push(std::move(out));
  }
  void end() override {
    first_ = true;
    Stage::end();
  }

 private:
  char32_t replacement_;
  bool prefixed_, first_ = true;
};

// The suffix that marks the end of a word is a space, but not at the end of the text.
class SuffixStage : public Stage {
 public:
  explicit SuffixStage(const std::string& suffix) : suffix_(suffix) {}
  void push(std::string token) override {
    flush(" ");
    held_ = std::move(token);
  }
  void end() override {
    flush("");
    held_.reset();
    Stage::end();
  }

 private:
  void flush(std::string_view replacement) {
    if (!held_) return;
    std::string out;
    size_t done = 0;
    for (size_t pos = 0; (pos = held_->find(suffix_, done)) != std::string::npos; done = pos + suffix_.size()) {
      out.append(*held_, done, pos - done);
      out += replacement;
    }
    out.append(*held_, done);
    next->push(std::move(out));
  }
  const std::string& suffix_;
  std::optional<std::string> held_;
};

// --- the chain -------------------------------------------------------------------------------------------------------

struct Step {
  enum class Kind { byte_level, replace, byte_fallback, fuse, strip, metaspace, suffix } kind;
  std::optional<Pattern> pattern;
  std::string content;
  char32_t character = 0;
  int64_t start = 0, stop = 0;
  bool prefixed = false;
};

class ChainDecoding : public Decoding {
 public:
  ChainDecoding(const std::vector<Step>& steps, const std::string& separator) : output_(separator) {
    for (size_t i = 0; i < steps.size(); ++i) {
      stages_.push_back(make(steps, i));
      if (i > 0) stages_[i - 1]->next = stages_[i].get();
    }
    if (!stages_.empty()) stages_.back()->next = &output_;
  }
  void push(std::string_view token, std::string& out) override {
    first().push(std::string(token));
    hand_over(out);
  }
  void finish(std::string& out) override {
    first().end();
    hand_over(out);
  }

 private:
  Stage& first() { return stages_.empty() ? output_ : *stages_.front(); }
  void hand_over(std::string& out) {
    out += output_.text;
    output_.text.clear();
  }

  static bool joins(const Step& step) { return step.kind == Step::Kind::byte_level || step.kind == Step::Kind::fuse; }
  // Can the steps from i on take one token in fragments?
  static bool takes_fragments(const std::vector<Step>& steps, size_t i) {
    if (i == steps.size()) return true;
    return steps[i].kind == Step::Kind::strip && steps[i].stop == 0 && takes_fragments(steps, i + 1);
  }

  static std::unique_ptr<Stage> make(const std::vector<Step>& steps, size_t i) {
    const Step& step = steps[i];
    const bool fragments = takes_fragments(steps, i + 1);
    switch (step.kind) {
      case Step::Kind::byte_level: return std::make_unique<ByteLevelStage>(fragments);
      case Step::Kind::fuse: return std::make_unique<FuseStage>(fragments);
      case Step::Kind::replace: return std::make_unique<ReplaceStage>(*step.pattern, step.content);
      case Step::Kind::byte_fallback: return std::make_unique<ByteFallbackStage>();
      case Step::Kind::metaspace: return std::make_unique<MetaspaceStage>(step.character, step.prefixed);
      case Step::Kind::suffix: return std::make_unique<SuffixStage>(step.content);
      case Step::Kind::strip: {
        // Behind a joining step, all strips up to here see one token.
        size_t before = i;
        while (before > 0 && steps[before - 1].kind == Step::Kind::strip) --before;
        const bool whole = before > 0 && joins(steps[before - 1]) && takes_fragments(steps, before);
        return std::make_unique<StripStage>(step.character, step.start, step.stop, whole);
      }
    }
    return nullptr;
  }

  Output output_;
  std::vector<std::unique_ptr<Stage>> stages_;
};

class Chain : public Decoder {
 public:
  Chain(std::vector<Step> steps, std::string separator) : steps_(std::move(steps)), separator_(std::move(separator)) {}
  std::unique_ptr<Decoding> start() const override { return std::make_unique<ChainDecoding>(steps_, separator_); }

 private:
  std::vector<Step> steps_;
  std::string separator_;
};

// --- reading ---------------------------------------------------------------------------------------------------------

char32_t read_character(const json::Ref& spec) {
  const std::string& text = spec.string();
  if (count_code_points(text) != 1) spec.fail("expected one character, found \"" + text + "\"");
  size_t pos = 0;
  return next_code_point(text, pos);
}

void read_steps(const json::Ref& spec, std::vector<Step>& steps) {
  const std::string& type = spec.at("type").string();
  Step step{};
  if (type == "Sequence") {
    spec.reject_unknown({"type", "decoders"});
    for (const json::Ref& part : spec.at("decoders").items()) read_steps(part, steps);
    return;
  }
  if (type == "ByteLevel") {
    spec.reject_unknown({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    step.kind = Step::Kind::byte_level;
  } else if (type == "Replace") {
    spec.reject_unknown({"type", "pattern", "content"});
    step.kind = Step::Kind::replace;
    step.pattern = read_pattern(spec.at("pattern"));
    step.content = spec.at("content").string();
  } else if (type == "ByteFallback") {
    spec.reject_unknown({"type"});
    step.kind = Step::Kind::byte_fallback;
  } else if (type == "Fuse") {
    spec.reject_unknown({"type"});
    step.kind = Step::Kind::fuse;
  } else if (type == "Strip") {
    spec.reject_unknown({"type", "content", "start", "stop"});
    step.kind = Step::Kind::strip;
    step.character = read_character(spec.at("content"));
    step.start = spec.at("start").size();
    step.stop = spec.at("stop").size();
  } else if (type == "Metaspace") {
    spec.reject_unknown({"type", "replacement", "prepend_scheme", "add_prefix_space", "str_rep", "split"});
    step.kind = Step::Kind::metaspace;
    step.character = read_character(spec.at("replacement"));
    const auto scheme = spec.find("prepend_scheme"), old = spec.find("add_prefix_space");
    if (scheme && scheme->string() != "always" && scheme->string() != "first" && scheme->string() != "never")
      scheme->fail("expected always, first or never, found \"" + scheme->string() + "\"");
    step.prefixed = scheme ? scheme->string() != "never" : !old || old->boolean();
  } else if (type == "BPEDecoder") {
    spec.reject_unknown({"type", "suffix"});
    step.kind = Step::Kind::suffix;
    step.content = spec.at("suffix").string();
    if (step.content.empty()) spec.at("suffix").fail("expected a string that is not empty");
  } else {
    spec.at("type").fail(
        "expected Sequence, ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace or BPEDecoder, found \"" + type +
        "\"");
  }
  steps.push_back(std::move(step));
}

}  // namespace

std::unique_ptr<Decoder> read_decoder(const json::Ref& spec) {
  std::vector<Step> steps;
  if (spec.is_null()) return std::make_unique<Chain>(std::move(steps), " ");
  read_steps(spec, steps);
  return std::make_unique<Chain>(std::move(steps), "");
}

std::unique_ptr<Decoder> make_piece_decoder() {
  std::vector<Step> steps(4);
  steps[0].kind = Step::Kind::replace;
  steps[0].pattern = Pattern(std::string("\u2581"));
  steps[0].content.assign(1, ' ');
  steps[1].kind = Step::Kind::byte_fallback;
  steps[2].kind = Step::Kind::fuse;
  steps[3].kind = Step::Kind::strip;
  steps[3].character = ' ';
  steps[3].start = 1;
  return std::make_unique<Chain>(std::move(steps), "");
}

}  // namespace signalbox::loaders::tokenizer
