#include "loaders/tokenizer/regex.h"

#include <oniguruma.h>

#include <cctype>
#include <cstdio>
#include <map>
#include <mutex>

#include "base/error.h"
#include "loaders/tokenizer/unicode.h"
#include "loaders/tokenizer/unicode_tables.h"

namespace signalbox::loaders::tokenizer {
namespace {

// --- properties ------------------------------------------------------------------------------------------------------
// The installed library has tables of Unicode 14, the one inside Hugging Face's tokenizers those of Unicode 16. So a
// property is written out as a bracket of our own tables.

struct CategoryName {
  const char *short_name, *long_name;
  std::initializer_list<Category> categories;
};

const CategoryName category_names[] = {
    {"c", "other", {Cc, Cf, Co, Cn}},
    {"l", "letter", {Lu, Ll, Lt, Lm, Lo}},
    {"lc", "casedletter", {Lu, Ll, Lt}},
    {"m", "mark", {Mn, Mc, Me}},
    {"n", "number", {Nd, Nl, No}},
    {"p", "punctuation", {Pc, Pd, Ps, Pe, Pi, Pf, Po}},
    {"s", "symbol", {Sm, Sc, Sk, So}},
    {"z", "separator", {Zs, Zl, Zp}},
    {"lu", "uppercaseletter", {Lu}},
    {"ll", "lowercaseletter", {Ll}},
    {"lt", "titlecaseletter", {Lt}},
    {"lm", "modifierletter", {Lm}},
    {"lo", "otherletter", {Lo}},
    {"mn", "nonspacingmark", {Mn}},
    {"mc", "spacingmark", {Mc}},
    {"me", "enclosingmark", {Me}},
    {"nd", "decimalnumber", {Nd}},
    {"nl", "letternumber", {Nl}},
    {"no", "othernumber", {No}},
    {"pc", "connectorpunctuation", {Pc}},
    {"pd", "dashpunctuation", {Pd}},
    {"ps", "openpunctuation", {Ps}},
    {"pe", "closepunctuation", {Pe}},
    {"pi", "initialpunctuation", {Pi}},
    {"pf", "finalpunctuation", {Pf}},
    {"po", "otherpunctuation", {Po}},
    {"sm", "mathsymbol", {Sm}},
    {"sc", "currencysymbol", {Sc}},
    {"sk", "modifiersymbol", {Sk}},
    {"so", "othersymbol", {So}},
    {"zs", "spaceseparator", {Zs}},
    {"zl", "lineseparator", {Zl}},
    {"zp", "paragraphseparator", {Zp}},
    {"cc", "control", {Cc}},
    {"cf", "format", {Cf}},
    {"co", "privateuse", {Co}},
    {"cn", "unassigned", {Cn}},
    {"digit", "", {Nd}},
    {"punct", "", {Pc, Pd, Ps, Pe, Pi, Pf, Po}},
};

using Property = std::pair<const char*, const std::span<const CodePointRange>*>;
const Property property_names[] = {
    {"word", &property_word},         {"alpha", &property_alpha},           {"alphabetic", &property_alpha},
    {"han", &property_han},           {"hiragana", &property_hiragana},     {"katakana", &property_katakana},
    {"hangul", &property_hangul},     {"latin", &property_latin},           {"greek", &property_greek},
    {"cyrillic", &property_cyrillic}, {"arabic", &property_arabic},         {"hebrew", &property_hebrew},
    {"thai", &property_thai},         {"devanagari", &property_devanagari},
};

// Name -> the members of a bracket: \x{41}-\x{5a}...
using PropertyTable = std::map<std::string, std::string>;

void add_range(std::string& members, uint32_t first, uint32_t last) {
  char text[40];
  std::snprintf(text, sizeof text, "\\x{%x}-\\x{%x}", first, last);
  members += text;
}

PropertyTable make_properties() {
  PropertyTable table;
  for (const CategoryName& name : category_names) {
    bool wanted[n_categories] = {};
    for (Category category : name.categories) wanted[category] = true;
    std::string members;
    for (size_t i = 0; i < category_runs.size();) {
      if (!wanted[category_runs[i].category]) {
        ++i;
        continue;
      }
      const uint32_t first = category_runs[i].first;
      while (i < category_runs.size() && wanted[category_runs[i].category]) ++i;
      add_range(members, first, (i < category_runs.size() ? category_runs[i].first : 0x110000) - 1);
    }
    table[name.short_name] = members;
    if (*name.long_name) table[name.long_name] = members;
  }
  for (const auto& [name, source] : property_names)
    for (const CodePointRange& range : *source) add_range(table[name], range.first, range.last);
  return table;
}

const PropertyTable& properties() {
  static const PropertyTable table = make_properties();
  return table;
}

// --- translation -----------------------------------------------------------------------------------------------------

// How the library compares names of properties.
std::string plain_name(std::string_view name) {
  std::string result;
  for (char c : name)
    if (c != ' ' && c != '_' && c != '-') result += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

// The expression with every class whose tables differ written out: \p{..} \P{..} \w \W \d \D and POSIX brackets. What
// cannot be written so is refused by name.
class Translation {
 public:
  Translation(const std::string& pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    int depth = 0;  // of brackets
    while (at_ < in_.size()) {
      const char c = in_[at_++];
      if (c == '\\' && at_ < in_.size()) {
        escape(depth);
      } else if (c == '[') {
        if (depth > 0 && at_ < in_.size() && in_[at_] == ':' && posix_bracket()) continue;
        ++depth;
        out_ += c;
        if (at_ < in_.size() && in_[at_] == '^') out_ += in_[at_++];
        if (at_ < in_.size() && in_[at_] == ']') {  // closes at once: a member
          out_ += "\\]";
          ++at_;
        }
      } else {
        if (c == ']' && depth > 0) --depth;
        out_ += c;
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(where_, "expected classes of characters that are known here, found " + what);
  }

  void write_property(const std::string& name, bool negated, const std::string& shown) {
    const auto found = properties().find(plain_name(name));
    if (found == properties().end()) refuse(shown);
    out_ += (negated ? "[^" : "[") + found->second + "]";
  }

  // Behind a backslash.
  void escape(int depth) {
    const char c = in_[at_++];
    const std::string shown = std::string("\\") + c;
    switch (c) {
      case 'w':
      case 'W': return write_property("word", c == 'W', shown);
      case 'd':
      case 'D': return write_property("nd", c == 'D', shown);
      case 'b':
      case 'B':
        if (depth == 0) refuse(shown);  // a word boundary; in a bracket \b is a backspace
        break;
      case 'X':
      case 'y':
      case 'Y': refuse(shown);
      case 'p':
      case 'P': {
        if (at_ >= in_.size() || in_[at_] != '{') break;
        const size_t end = in_.find('}', at_);
        if (end == std::string::npos) break;
        std::string name = in_.substr(at_ + 1, end - at_ - 1);
        at_ = end + 1;
        bool negated = c == 'P';
        if (!name.empty() && name.front() == '^') {
          negated = !negated;
          name.erase(0, 1);
        }
        const std::string plain = plain_name(name);
        if (plain == "space" || plain == "whitespace") {
          out_ += negated ? "\\S" : "\\s";
          return;
        }
        return write_property(name, negated, shown + "{" + name + "}");
      }
      default: break;
    }
    out_ += shown;
  }

  // At the colon of "[:"; false when no such bracket closes.
  bool posix_bracket() {
    const size_t end = in_.find(":]", at_ + 1);
    if (end == std::string::npos) return false;
    std::string name = in_.substr(at_ + 1, end - at_ - 1);
    const std::string shown = "[:" + name + ":]";
    at_ = end + 2;
    const bool negated = !name.empty() && name.front() == '^';
    if (negated) name.erase(0, 1);
    if (name == "space")
      out_ += negated ? "\\S" : "\\s";
    else if (name == "alpha" || name == "digit" || name == "word")
      write_property(name, negated, shown);
    else
      refuse(shown);
    return true;
  }

  const std::string& in_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
};

// `X+$` for a class X is quadratic as it stands: in a run of X that no line end follows, every start scans the rest of
// the run. A start that has a run's character in front of it, other than the place where the search began, cannot be
// the leftmost match (the start before it could end at the same place), so it need not be tried:
//     X+$  =  (?:\G|(?<!X))X+$
std::string without_quadratic_tail(const std::string& pattern) {
  if (pattern.size() < 3 || pattern.compare(pattern.size() - 2, 2, "+$") != 0) return pattern;
  const std::string atom = pattern.substr(0, pattern.size() - 2);
  const bool escape =
      atom.size() == 2 && atom[0] == '\\' && std::string_view("sSwWdDhH").find(atom[1]) != std::string::npos;
  const bool bracket = atom.size() > 2 && atom[0] == '[' && atom.find_first_of("[]\\&", 1) == atom.size() - 1;
  const bool property =
      atom.size() > 4 && (atom.starts_with("\\p{") || atom.starts_with("\\P{")) && atom.find('}') == atom.size() - 1;
  if (!escape && !bracket && !property) return pattern;
  return "(?:\\G|(?<!" + atom + "))" + pattern;
}

// What a search needs, kept between searches.
struct Scratch {
  OnigRegion* region = onig_region_new();
  OnigMatchParam* limits = onig_new_match_param();
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  ~Scratch() {
    if (region) onig_region_free(region, 1);
    if (limits) onig_free_match_param(limits);
  }
};

std::string message_of(int code, OnigErrorInfo* info) {
  UChar text[ONIG_MAX_ERROR_MESSAGE_LEN];
  const int length = info ? onig_error_code_to_str(text, code, info) : onig_error_code_to_str(text, code);
  return std::string(reinterpret_cast<char*>(text), static_cast<size_t>(length));
}

}  // namespace

// What a text of one ASCII character gives; such pieces are many, and a search costs more than looking it up.
enum class Alone : uint8_t { other, matches, does_not };

struct Regex::Compiled {
  OnigRegex regex = nullptr;
  Alone ascii[128] = {};
  ~Compiled() {
    if (regex) onig_free(regex);
  }
};

Regex::Regex(const std::string& pattern, const std::string& where) : pattern_(pattern), where_(where) {
  static std::mutex mutex;  // compiling touches the library's global state
  std::lock_guard lock(mutex);
  static const bool ready = [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    return onig_initialize(encodings, 1) == ONIG_NORMAL;
  }();
  if (!ready) throw Error(where, "cannot start the library of regular expressions");
  if (first_invalid_utf8(pattern) != std::string_view::npos || pattern.find('\0') != std::string::npos)
    throw Error(where, "expected a regular expression, found a zero byte or invalid UTF-8");
  if (pattern.size() > 1 << 16) throw Error(where, "expected a regular expression of at most 65536 bytes");
  const std::string tamed = without_quadratic_tail(pattern);
  const std::string source = Translation(tamed, where).run();
  auto compiled = std::make_shared<Compiled>();
  OnigErrorInfo info;
  const auto* bytes = reinterpret_cast<const UChar*>(source.data());
  const int code = onig_new(&compiled->regex, bytes, bytes + source.size(), ONIG_OPTION_NONE, ONIG_ENCODING_UTF8,
                            OnigDefaultSyntax, &info);
  if (code != ONIG_NORMAL) {
    compiled->regex = nullptr;
    throw Error(where, "expected a regular expression, found \"" + pattern + "\": " + message_of(code, &info));
  }
  compiled_ = compiled;
  std::vector<ByteRange> matches;
  for (int c = 0; c < 128; ++c) {
    const char text = static_cast<char>(c);
    matches.clear();
    search({&text, 1}, matches);
    if (matches.empty())
      compiled->ascii[c] = Alone::does_not;
    else if (matches.size() == 1 && matches[0] == ByteRange{0, 1})
      compiled->ascii[c] = Alone::matches;
  }
}

void Regex::find_all(std::string_view text, std::vector<ByteRange>& matches) const {
  if (text.size() == 1 && !(text[0] & 0x80)) {
    switch (compiled_->ascii[static_cast<unsigned char>(text[0])]) {
      case Alone::matches: matches.push_back({0, 1}); return;
      case Alone::does_not: return;
      case Alone::other: break;
    }
  }
  search(text, matches);
}

void Regex::search(std::string_view text, std::vector<ByteRange>& matches) const {
  if (text.empty()) return;
  const auto* begin = reinterpret_cast<const UChar*>(text.data());
  const auto* end = begin + text.size();
  static thread_local Scratch scratch;
  if (!scratch.region || !scratch.limits) throw Error(where_, "out of memory");
  onig_initialize_match_param(scratch.limits);
  onig_set_match_stack_limit_size_of_match_param(scratch.limits, 0);
  const unsigned long steps = 10'000'000ul + 64ul * text.size();
  onig_set_retry_limit_in_match_of_match_param(scratch.limits, steps);
  onig_set_retry_limit_in_search_of_match_param(scratch.limits, steps);

  size_t at = 0;
  bool any = false;
  uint32_t last_end = 0;
  while (at <= text.size()) {
    const int code = onig_search_with_param(compiled_->regex, begin, end, begin + at, end, scratch.region,
                                            ONIG_OPTION_NONE, scratch.limits);
    if (code == ONIG_MISMATCH) break;
    if (code < 0)
      throw Error(where_, "the regular expression \"" + pattern_ + "\" failed at byte " + std::to_string(at) +
                              " of a text: " + message_of(code, nullptr));
    const auto first = static_cast<uint32_t>(scratch.region->beg[0]),
               last = static_cast<uint32_t>(scratch.region->end[0]);
    if (first == last && any && last == last_end) {
      at += at < text.size() ? utf8_length(static_cast<unsigned char>(text[at])) : 1;
      continue;
    }
    matches.push_back({first, last});
    any = true;
    last_end = last;
    at = last;
  }
}

std::string escape_regex(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (std::string_view("\\.+*?()|[]{}^$#&-~").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace signalbox::loaders::tokenizer
