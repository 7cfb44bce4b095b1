# The built-in model: the files of tools/builtin/checkpoint, embedded as they are.
file(GLOB builtin_files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tools/builtin/checkpoint/*)
embed_files(builtin ${builtin_files})   # sets builtin_asm
