// Fuzzes tokenizer.json: reading, encoding, decoding. The input is the file, a zero byte, and a text; without a zero
// byte it is a text for a fixed tokenizer. An Error is a fine answer; a crash, a hang or broken UTF-8 is not.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/utf8.h"
#include "loaders/tokenizer/tokenizer.h"

namespace {

// Byte-level pieces, added tokens of every kind, two normalizers.
const char* const fixed_tokenizer = R"({"version":"1.0","truncation":null,"padding":null,
"added_tokens":[{"id":8,"content":"<s>","single_word":false,"lstrip":true,"rstrip":true,"normalized":false,"special":true},
{"id":9,"content":"ab","single_word":true,"lstrip":false,"rstrip":false,"normalized":true,"special":false}],
"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Prepend","prepend":"_"}]},
"pre_tokenizer":{"type":"Sequence","pretokenizers":[
{"type":"Split","pattern":{"Regex":"(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
"behavior":"Isolated","invert":false},{"type":"Split","pattern":{"Regex":"\\s+$"},"behavior":"Isolated","invert":false}]},
"post_processor":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"_"},"content":" "},{"type":"ByteFallback"},
{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
"model":{"type":"BPE","unk_token":"<u>","fuse_unk":true,"byte_fallback":true,"vocab":{"<u>":0,"a":1,"b":2,"aa":3,"aab":4,
"<0xC3>":5,"<0xA9>":6,"_":7},"merges":["a a",["aa","b"]]}})";

void check(bool good) {
  if (!good) std::abort();
}

void exercise(const signalbox::engine::Tokenizer& tokenizer, std::string_view text) {
  using namespace signalbox;
  using namespace signalbox::tools;
  const CharRange literal[] = {{1, 3}};
  for (const SpecialTokens special : {SpecialTokens::parse, SpecialTokens::as_text}) {
    EncodeOptions options;
    options.special = special;
    options.literal = literal;
    const Encoding encoding = tokenizer.encode(text, options);
    check(encoding.ids.size() == encoding.offsets.size());
    const auto n = static_cast<uint32_t>(count_code_points(text));
    for (const CharRange& offset : encoding.offsets) check(offset.begin <= offset.end && offset.end <= n);
    for (const bool skip : {false, true}) {
      const std::string all = tokenizer.decode(encoding.ids, skip);
      const auto stream = tokenizer.stream(skip);
      std::string streamed;
      for (int32_t id : encoding.ids) {
        const std::string part = stream->push(id);
        check(first_invalid_utf8(part) == std::string::npos);
        streamed += part;
      }
      streamed += stream->finish();
      check(streamed == all);
    }
  }
  tokenizer.encode_target(text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace signalbox;
  using namespace signalbox::tools;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  try {
    if (zero == std::string_view::npos) {
      static const auto fixed = [] {
        TokenizerFiles files;
        files.tokenizer_json = fixed_tokenizer;
        return make_tokenizer(files);
      }();
      exercise(*fixed, input);
    } else {
      TokenizerFiles files;
      files.tokenizer_json = std::string(input.substr(0, zero));
      exercise(*make_tokenizer(files), input.substr(zero + 1));
    }
  } catch (const Error&) {
  }
  return 0;
}
