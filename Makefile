MODEL := .models/SmolLM2-135M-Instruct.Q4_1.gguf

# Every Vulkan driver of the system and SwiftShader, which no system directory lists. The user's own choice wins.
DRIVERS = $${VK_DRIVER_FILES:-$${VK_ICD_FILENAMES:-$$(ls /etc/vulkan/icd.d/*.json /usr/share/vulkan/icd.d/*.json \
	/usr/lib/chromium/vk_swiftshader_icd.json 2>/dev/null | paste -sd: -)}}

.PHONY: demo test-needs test conformance compilers web web-library lint features wasm windows spelling dependencies advisories

# Asks the model a question about a document, with two-level attention.
demo:
	tools/setup model driver
	cargo build --release
	target/release/asynctls generate --model $(MODEL) --attention two-level \
		--prompt-file demo/britannica-1911-shakespeare-question.txt --max-tokens 64

# What the tests need besides cargo.
test-needs:
	tools/setup model driver test-adapters compilers web

# On every adapter of this machine, software ones included.
test: test-needs
	VK_DRIVER_FILES="$(DRIVERS)" cargo test --release --no-fail-fast

# Every case in every mode on every adapter, of which the gate has a part.
conformance:
	tools/setup driver test-adapters web
	VK_DRIVER_FILES="$(DRIVERS)" ASYNCTLS_TEST_TRIALS=all cargo test --release --test conformance

# Every text of every kernel, in each mode, by every compiler that can be had: those of the gate, DX12's under Wine, and a browser's.
compilers:
	tools/setup compilers all-compilers
	ASYNCTLS_TEST_TEXTS=all cargo test --release --test compilers

# All cases on WebGPU itself, on SwiftShader: under Dawn in Node, and the page in Chromium.
web:
	tools/setup driver test-adapters web
	cargo run --release -- conformance --export web/conformance/bundle
	VK_DRIVER_FILES=/usr/lib/chromium/vk_swiftshader_icd.json node web/conformance/node.mjs --json target/dawn.json
	node web/conformance/browser.mjs --json target/chromium.json

# The library itself in a browser, and the tiny models whose logits it has to make there, for the page's second mode. What strips
# symbols strips what wasm-bindgen reads.
web-library:
	tools/setup driver test-adapters web web-library
	CARGO_PROFILE_RELEASE_STRIP=none cargo build --release --package asynctls-web --target wasm32-unknown-unknown
	wasm-bindgen --target web --no-typescript --out-dir web/conformance/library \
		$${CARGO_TARGET_DIR:-target}/wasm32-unknown-unknown/release/asynctls_web.wasm
	for file in tests/goldens/tiny/*/model.gguf; do \
		from=$$(dirname $$file); to=web/conformance/library/$$(basename $$from); \
		mkdir -p $$to && cp $$file $$from/golden.safetensors $$to || exit 1; \
		basename $$from; \
	done | sed 's/.*/"&"/' | paste -sd, | sed 's/.*/[&]/' > web/conformance/library/models.json
	node web/conformance/browser.mjs --library --json target/library.json

# With the profile of the tests, so that what compiles others (macros, build scripts) is made once.
lint:
	cargo fmt --check
	cargo clippy --release --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps
	RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps --lib --no-default-features --features text
	$(MAKE) --no-print-directory features wasm windows spelling dependencies

# Without features, and with each of them alone but the default ones, which are all of them.
features:
	@for feature in "" $$(sed -n '/^default = /d; /^\[features\]/,/^\[dep/s/^\([a-z-]*\) = .*/\1/p' Cargo.toml); do \
		echo "with the features [$$feature]"; \
		cargo clippy --release --no-default-features --features "$$feature" -- -D warnings || exit 1; \
	done

# Types alone of what a browser could run: the operator, and engines. What reads tokenizers asks for an operating system's random numbers.
wasm:
	@if [ -d "$$(rustc --print sysroot)/lib/rustlib/wasm32-unknown-unknown/lib" ]; then \
		for feature in "" engine; do \
			cargo check --release --lib --no-default-features --features "$$feature" --target wasm32-unknown-unknown || exit 1; \
		done; \
	else echo "skipped: types of WebAssembly, whose target is missing (rustup target add wasm32-unknown-unknown)"; fi

# Types of the program for Windows.
windows:
	@if [ -d "$$(rustc --print sysroot)/lib/rustlib/x86_64-pc-windows-gnu" ] && command -v x86_64-w64-mingw32-gcc >/dev/null; then \
		cargo check --release --target x86_64-pc-windows-gnu || exit 1; \
	else echo "skipped: types of Windows, whose target or MinGW is missing (rustup target add x86_64-pc-windows-gnu)"; fi

spelling:
	@if command -v typos >/dev/null; then typos; \
	else echo "skipped: the spelling, whose check is missing (cargo install --locked typos-cli)"; fi

# Licences, doubles and origins of what Cargo.lock names.
dependencies:
	@if command -v cargo-deny >/dev/null; then cargo deny --offline --log-level error check bans licenses sources; \
	else echo "skipped: the dependencies, whose check is missing (cargo install --locked cargo-deny)"; fi

# Known faults of dependencies, from a list that is fetched: not a part of the gate.
advisories:
	cargo deny check advisories
