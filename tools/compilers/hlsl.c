// Compiles kernels with a compiler of DX12, as wgpu calls it. The first line says its version. Paths are read from the standard input,
// one a line. For each come messages, indented, and then a line of "accepted" or "refused", the milliseconds that it took and the path.
//   hlsl.exe fxc cs_5_1 | dxc cs_6_0
#define COBJMACROS
#define INITGUID
#include <d3dcompiler.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

// What is used of dxcapi.h, which MinGW has not.
DEFINE_GUID(CLSID_Compiler, 0x73e22d93, 0xe6ce, 0x47f3, 0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0);
DEFINE_GUID(IID_Compiler3, 0x228b4687, 0x5a6a, 0x4730, 0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54);
DEFINE_GUID(IID_Result, 0x58346cda, 0xdde7, 0x4497, 0x94, 0x61, 0x6f, 0x87, 0xaf, 0x5e, 0x06, 0x59);

typedef struct { const void *text; SIZE_T bytes; UINT encoding; } Source;
typedef struct Result Result;
struct Result {
    struct {
        void *of_unknown[2];
        ULONG(WINAPI *release)(Result *);
        HRESULT(WINAPI *status)(Result *, HRESULT *);
        HRESULT(WINAPI *object)(Result *, ID3DBlob **);
        HRESULT(WINAPI *errors)(Result *, ID3DBlob **);
    } *vtable;
};
typedef struct Compiler3 Compiler3;
struct Compiler3 {
    struct {
        void *of_unknown[3];
        HRESULT(WINAPI *compile)(Compiler3 *, const Source *, const WCHAR **, UINT, void *, const GUID *, void **);
    } *vtable;
};
typedef HRESULT(WINAPI *Create)(const GUID *, const GUID *, void **);

static pD3DCompile fxc;
static Compiler3 *dxc;
static const char *profile;

static HRESULT with_fxc(const char *text, size_t bytes, ID3DBlob **messages) {
    ID3DBlob *object = NULL;
    HRESULT made = fxc(text, bytes, NULL, NULL, NULL, "main", profile, D3DCOMPILE_ENABLE_STRICTNESS, 0, &object, messages);
    if (object) ID3D10Blob_Release(object);
    return made;
}

static HRESULT with_dxc(const char *text, size_t bytes, ID3DBlob **messages) {
    WCHAR target[16];
    mbstowcs(target, profile, 16);
    const WCHAR *arguments[] = {L"-E", L"main", L"-T", target, L"-HV", L"2018", L"-no-warnings", L"-Ges", L"-enable-16bit-types"};
    // Types of 16 bits came with 6.2.
    UINT count = strcmp(profile, "cs_6_2") < 0 ? 8 : 9;
    Source source = {text, bytes, CP_UTF8};
    Result *result = NULL;
    HRESULT made = dxc->vtable->compile(dxc, &source, arguments, count, NULL, &IID_Result, (void **)&result);
    if (FAILED(made)) return made;
    result->vtable->status(result, &made);
    result->vtable->errors(result, messages);
    result->vtable->release(result);
    return made;
}

static int load(const char *which) {
    if (!strcmp(which, "fxc")) {
        HMODULE library = LoadLibraryA("d3dcompiler_47.dll");
        fxc = library ? (pD3DCompile)(void *)GetProcAddress(library, "D3DCompile") : NULL;
        return fxc != NULL;
    }
    HMODULE library = LoadLibraryA("dxcompiler.dll");
    Create create = library ? (Create)(void *)GetProcAddress(library, "DxcCreateInstance") : NULL;
    return create && SUCCEEDED(create(&CLSID_Compiler, &IID_Compiler3, (void **)&dxc));
}

static void say_version(const char *library) {
    char path[MAX_PATH], facts[8192];
    VS_FIXEDFILEINFO *fixed = NULL;
    UINT bytes;
    GetModuleFileNameA(GetModuleHandleA(library), path, MAX_PATH);
    if (GetFileVersionInfoA(path, 0, sizeof facts, facts) && VerQueryValueA(facts, "\\", (void **)&fixed, &bytes))
        printf("version %u.%u.%u.%u\n", HIWORD(fixed->dwFileVersionMS), LOWORD(fixed->dwFileVersionMS),
               HIWORD(fixed->dwFileVersionLS), LOWORD(fixed->dwFileVersionLS));
    else printf("version unknown\n");
    fflush(stdout);
}

static void indented(const char *text, size_t bytes) {
    int begins = 1;
    for (size_t i = 0; i < bytes && text[i]; i++) {
        if (begins) fputs("  ", stdout);
        if (text[i] != '\r') fputc(text[i], stdout);
        begins = text[i] == '\n';
    }
    if (!begins) fputc('\n', stdout);
}

static void compile(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        printf("  it cannot be read\nrefused 0 %s\n", path);
        return;
    }
    fseek(file, 0, SEEK_END);
    size_t bytes = ftell(file);
    rewind(file);
    char *text = malloc(bytes);
    bytes = fread(text, 1, bytes, file);
    fclose(file);
    ID3DBlob *messages = NULL;
    DWORD began = GetTickCount();
    HRESULT made = fxc ? with_fxc(text, bytes, &messages) : with_dxc(text, bytes, &messages);
    DWORD took = GetTickCount() - began;
    if (messages) indented(ID3D10Blob_GetBufferPointer(messages), ID3D10Blob_GetBufferSize(messages));
    printf("%s %lu %s\n", SUCCEEDED(made) ? "accepted" : "refused", took, path);
    if (messages) ID3D10Blob_Release(messages);
    free(text);
}

int main(int count, char **words) {
    if (count != 3 || !load(words[1])) {
        fprintf(stderr, "usage: hlsl.exe fxc|dxc PROFILE, with the compiler's library beside it\n");
        return 2;
    }
    profile = words[2];
    say_version(fxc ? "d3dcompiler_47.dll" : "dxcompiler.dll");
    char path[4096];
    while (fgets(path, sizeof path, stdin)) {
        path[strcspn(path, "\r\n")] = 0;
        compile(path);
        fflush(stdout);
    }
    return 0;
}
