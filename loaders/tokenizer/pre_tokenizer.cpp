#include "loaders/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <functional>

#include "loaders/tokenizer/byte_level.h"
#include "loaders/tokenizer/pattern.h"
#include "loaders/tokenizer/unicode.h"

namespace signalbox::loaders::tokenizer {
namespace {

// --- cutting ---------------------------------------------------------------------------------------------------------

// What becomes of a delimiter. With "-" as the delimiter, "a--b" becomes: removed: a b; isolated: a - - b;
// merged_with_previous: a- - b; merged_with_next: a - -b; contiguous: a -- b.
enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

struct Part {
  ByteRange range;
  bool match;
};

// Appends the matches in a text.
using Finder = std::function<void(std::string_view, std::vector<ByteRange>&)>;

// Cuts text at its matches and appends what is left, moved by `base`.
class Cutter {
 public:
  Cutter(const Finder& find, Behavior behavior, bool invert) : find_(find), behavior_(behavior), invert_(invert) {}

  void cut(std::string_view text, uint32_t base, std::vector<ByteRange>& out) {
    cover(text);
    out_ = &out;
    base_ = base;
    fresh_ = true;
    previous_ = false;
    if (behavior_ != Behavior::merged_with_next) {
      for (const Part& part : parts_) add(part);
      return;
    }
    // From the right, each match to the part behind it.
    const size_t first = out.size();
    for (auto part = parts_.rbegin(); part != parts_.rend(); ++part) add(*part);
    std::reverse(out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
  }

 private:
  // The text as parts that are matches and parts between them.
  void cover(std::string_view text) {
    matches_.clear();
    parts_.clear();
    find_(text, matches_);
    uint32_t done = 0;
    const auto size = static_cast<uint32_t>(text.size());
    for (const ByteRange& match : matches_) {
      if (match.begin > done) parts_.push_back({{done, match.begin}, invert_});
      parts_.push_back({match, !invert_});
      done = match.end;
    }
    if (done < size) parts_.push_back({{done, size}, invert_});
  }

  void add(const Part& part) {
    bool join = false;
    switch (behavior_) {
      case Behavior::removed:
        if (part.match) return;
        break;
      case Behavior::isolated: break;
      case Behavior::contiguous: join = part.match == previous_; break;
      case Behavior::merged_with_previous:
      case Behavior::merged_with_next: join = part.match && !previous_; break;
    }
    const ByteRange range{base_ + part.range.begin, base_ + part.range.end};
    if (join && !fresh_) {
      out_->back() = {std::min(out_->back().begin, range.begin), std::max(out_->back().end, range.end)};
    } else {
      out_->push_back(range);
    }
    fresh_ = false;
    previous_ = part.match;
  }

  const Finder& find_;
  Behavior behavior_;
  bool invert_;
  std::vector<ByteRange> matches_;
  std::vector<Part> parts_;
  std::vector<ByteRange>* out_ = nullptr;
  uint32_t base_ = 0;
  bool fresh_ = true;      // nothing added yet
  bool previous_ = false;  // was the part before a match?
};

void split(Pieces& pieces, const Finder& find, Behavior behavior, bool invert = false) {
  std::vector<ByteRange> ranges;
  ranges.reserve(pieces.ranges.size() + pieces.ranges.size() / 2);
  Cutter cutter(find, behavior, invert);
  for (const ByteRange& piece : pieces.ranges)
    cutter.cut(std::string_view(pieces.text.text).substr(piece.begin, piece.end - piece.begin), piece.begin, ranges);
  std::erase_if(ranges, [](const ByteRange& range) { return range.begin == range.end; });
  pieces.ranges = std::move(ranges);
}

// Each code point that `is` says, one match each.
template <class Is>
Finder each(Is is) {
  return [is](std::string_view text, std::vector<ByteRange>& matches) {
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      if (is(next_code_point(text, pos))) matches.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(pos)});
    }
  };
}

// Builds the text of all pieces anew: `write` appends a piece's new text and its sources.
struct Rebuilt {
  std::string text;
  std::vector<ByteRange> source;

  void append(std::string_view part, ByteRange from) {
    text += part;
    source.insert(source.end(), part.size(), from);
  }
};

void rebuild(Pieces& pieces, const std::function<void(ByteRange, Rebuilt&)>& write) {
  Rebuilt output;
  output.text.reserve(pieces.text.text.size() * 3 / 2);
  output.source.reserve(pieces.text.text.size() * 3 / 2);
  for (ByteRange& piece : pieces.ranges) {
    const auto begin = static_cast<uint32_t>(output.text.size());
    write(piece, output);
    piece = {begin, static_cast<uint32_t>(output.text.size())};
  }
  pieces.text.text = std::move(output.text);
  pieces.text.source = std::move(output.source);
}

// --- components ------------------------------------------------------------------------------------------------------

class PreTokenizers : public PreTokenizer {
 public:
  explicit PreTokenizers(std::vector<std::unique_ptr<PreTokenizer>> parts) : parts_(std::move(parts)) {}
  void apply(Pieces& pieces, bool prefix) const override {
    for (const auto& part : parts_) part->apply(pieces, prefix);
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

// Split, Digits, Punctuation, Whitespace, ...: cuts where `find` finds.
class Cut : public PreTokenizer {
 public:
  Cut(Finder find, Behavior behavior, bool invert = false)
      : find_(std::move(find)), behavior_(behavior), invert_(invert) {}
  void apply(Pieces& pieces, bool) const override { split(pieces, find_, behavior_, invert_); }

 private:
  Finder find_;
  Behavior behavior_;
  bool invert_;
};

// Runs of word characters and runs of what is neither word nor white space.
void find_words(std::string_view text, std::vector<ByteRange>& matches) {
  int last = 0;  // 0 space, 1 word, 2 other
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = next_code_point(text, pos);
    const int kind = is_word(c) ? 1 : is_whitespace(c) ? 0 : 2;
    if (kind != 0 && kind == last)
      matches.back().end = static_cast<uint32_t>(pos);
    else if (kind != 0)
      matches.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(pos)});
    last = kind;
  }
}

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex, const std::string& where) : add_prefix_space_(add_prefix_space) {
    if (use_regex)
      regex_.emplace("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", where);
  }

  void apply(Pieces& pieces, bool prefix) const override {
    if (add_prefix_space_ && prefix) {
      const AlignedText old = pieces.text;
      rebuild(pieces, [&](ByteRange piece, Rebuilt& out) {
        if (old.text[piece.begin] != ' ') out.append(" ", old.source[piece.begin]);
        out.text.append(old.text, piece.begin, piece.end - piece.begin);
        out.source.insert(out.source.end(), old.source.begin() + piece.begin, old.source.begin() + piece.end);
      });
    }
    if (regex_)
      split(
          pieces, [this](std::string_view text, std::vector<ByteRange>& out) { regex_->find_all(text, out); },
          Behavior::isolated);
    const AlignedText old = std::move(pieces.text);
    rebuild(pieces, [&](ByteRange piece, Rebuilt& out) {
      // All bytes of a code point have the source of its first.
      for (uint32_t pos = piece.begin; pos < piece.end;) {
        const uint32_t end = pos + static_cast<uint32_t>(utf8_length(static_cast<unsigned char>(old.text[pos])));
        const ByteRange from = old.source[pos];
        for (; pos < end; ++pos) out.append(byte_character(static_cast<unsigned char>(old.text[pos])), from);
      }
    });
    pieces.text.base = old.base;
  }

 private:
  bool add_prefix_space_;
  std::optional<Regex> regex_;
};

class Metaspace : public PreTokenizer {
 public:
  enum class Scheme { always, first, never };
  Metaspace(char32_t replacement, Scheme scheme, bool split) : c_(replacement), scheme_(scheme), split_(split) {
    append_utf8(replacement_, replacement);
  }

  void apply(Pieces& pieces, bool prefix) const override {
    const AlignedText old = std::move(pieces.text);
    rebuild(pieces, [&](ByteRange piece, Rebuilt& out) {
      const bool starts =
          old.text[piece.begin] == ' ' || old.text.compare(piece.begin, replacement_.size(), replacement_) == 0;
      const bool wanted =
          prefix && (scheme_ == Scheme::always || (scheme_ == Scheme::first && old.source[piece.begin].begin == 0));
      if (wanted && !starts) out.append(replacement_, old.source[piece.begin]);
      for (uint32_t pos = piece.begin; pos < piece.end; ++pos) {
        if (old.text[pos] == ' ')
          out.append(replacement_, old.source[pos]);
        else
          out.append(std::string_view(old.text).substr(pos, 1), old.source[pos]);
      }
    });
    pieces.text.base = old.base;
    const char32_t c = c_;
    if (split_) split(pieces, each([c](char32_t other) { return other == c; }), Behavior::merged_with_next);
  }

 private:
  char32_t c_;
  std::string replacement_;
  Scheme scheme_;
  bool split_;
};

// --- reading ---------------------------------------------------------------------------------------------------------

Behavior read_behavior(const json::Ref& spec) {
  const std::string& name = spec.string();
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  spec.fail("expected Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous, found \"" + name + "\"");
}

char32_t read_one_character(const json::Ref& spec) {
  const std::string& text = spec.string();
  if (count_code_points(text) != 1) spec.fail("expected one character, found \"" + text + "\"");
  size_t pos = 0;
  return next_code_point(text, pos);
}

Metaspace::Scheme read_scheme(const json::Ref& spec) {
  const auto scheme = spec.find("prepend_scheme");
  const auto old = spec.find("add_prefix_space");
  if (!scheme) return !old || old->boolean() ? Metaspace::Scheme::always : Metaspace::Scheme::never;
  const std::string& name = scheme->string();
  if (old && !old->boolean() && name != "never")
    old->fail("expected true with prepend_scheme \"" + name + "\", found false");
  if (name == "always") return Metaspace::Scheme::always;
  if (name == "first") return Metaspace::Scheme::first;
  if (name == "never") return Metaspace::Scheme::never;
  scheme->fail("expected always, first or never, found \"" + name + "\"");
}

}  // namespace

std::unique_ptr<PreTokenizer> read_pre_tokenizer(const json::Ref& spec) {
  const std::string& type = spec.at("type").string();
  if (type == "Sequence") {
    spec.reject_unknown({"type", "pretokenizers"});
    std::vector<std::unique_ptr<PreTokenizer>> parts;
    for (const json::Ref& part : spec.at("pretokenizers").items()) parts.push_back(read_pre_tokenizer(part));
    return std::make_unique<PreTokenizers>(std::move(parts));
  }
  if (type == "Split") {
    spec.reject_unknown({"type", "pattern", "behavior", "invert"});
    const auto invert = spec.find("invert");
    return std::make_unique<Cut>(
        [pattern = read_pattern(spec.at("pattern"))](std::string_view text, std::vector<ByteRange>& out) {
          pattern.find_all(text, out);
        },
        read_behavior(spec.at("behavior")), invert && invert->boolean());
  }
  if (type == "ByteLevel") {
    spec.reject_unknown({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    spec.at("trim_offsets").boolean();  // speaks of the post-processor of the same name
    const auto use_regex = spec.find("use_regex");
    return std::make_unique<ByteLevel>(spec.at("add_prefix_space").boolean(), !use_regex || use_regex->boolean(),
                                       spec.where());
  }
  if (type == "Digits") {
    spec.reject_unknown({"type", "individual_digits"});
    return std::make_unique<Cut>(each(is_numeric),
                                 spec.at("individual_digits").boolean() ? Behavior::isolated : Behavior::contiguous);
  }
  if (type == "Punctuation") {
    spec.reject_unknown({"type", "behavior"});
    const auto behavior = spec.find("behavior");
    return std::make_unique<Cut>(each(is_punctuation), behavior ? read_behavior(*behavior) : Behavior::isolated);
  }
  if (type == "Whitespace") {
    spec.reject_unknown({"type"});
    return std::make_unique<Cut>(find_words, Behavior::removed, true);
  }
  if (type == "WhitespaceSplit") {
    spec.reject_unknown({"type"});
    return std::make_unique<Cut>(each(is_whitespace), Behavior::removed);
  }
  if (type == "CharDelimiterSplit") {
    spec.reject_unknown({"type", "delimiter"});
    const char32_t delimiter = read_one_character(spec.at("delimiter"));
    return std::make_unique<Cut>(each([delimiter](char32_t c) { return c == delimiter; }), Behavior::removed);
  }
  if (type == "Metaspace") {
    spec.reject_unknown({"type", "replacement", "prepend_scheme", "add_prefix_space", "str_rep", "split"});
    const auto split_too = spec.find("split");
    return std::make_unique<Metaspace>(read_one_character(spec.at("replacement")), read_scheme(spec),
                                       !split_too || split_too->boolean());
  }
  spec.at("type").fail(
      "expected Sequence, Split, ByteLevel, Digits, Punctuation, Whitespace, WhitespaceSplit, CharDelimiterSplit or "
      "Metaspace, found \"" +
      type + "\"");
}

}  // namespace signalbox::loaders::tokenizer
