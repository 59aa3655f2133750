//! The fields of every input but the conversation, for the cache key. Each input begins with a tag of its own.

use super::hash::FieldHasher;
use crate::client::{Document, EmbeddingInput, ImageInput, Lora, PromptInput, RerankInput};

// Destructured, so that a new field is a compile error until somebody decides whether it changes the answer.
impl FieldHasher {
    pub(super) fn prompt(&mut self, input: &PromptInput) {
        let PromptInput {
            prompt,
            max_tokens,
            stop,
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            seed,
            n,
            logprobs,
            echo,
            safety_model,
            extra,
        } = input;
        self.tagged(2, prompt);
        self.some(*max_tokens, |hash, most| hash.number(u64::from(most)));
        self.list(stop, |hash, text| hash.text(text));
        for value in [temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty] {
            self.some(*value, Self::float);
        }
        self.some(*top_k, |hash, value| hash.number(u64::from(value.cast_unsigned())));
        self.number(logit_bias.len() as u64);
        for (token, bias) in logit_bias {
            self.text(token);
            self.float(*bias);
        }
        self.some(*seed, Self::number);
        self.number(u64::from(n.unwrap_or(1)));
        self.some(*logprobs, Self::tag);
        self.some(*echo, |hash, echo| hash.tag(u8::from(echo)));
        self.some_text(safety_model.as_deref());
        self.object(extra);
    }

    pub(super) fn embedding(&mut self, EmbeddingInput { texts, extra }: &EmbeddingInput) {
        self.tag(3);
        self.list(texts, |hash, text| hash.text(text));
        self.object(extra);
    }

    pub(super) fn image(&mut self, input: &ImageInput) {
        let ImageInput {
            prompt,
            negative_prompt,
            width,
            height,
            steps,
            n,
            seed,
            guidance_scale,
            image_url,
            reference_images,
            image_loras,
            disable_safety_checker,
            output_format,
            response_format,
            extra,
        } = input;
        self.tagged(4, prompt);
        for text in [negative_prompt, image_url, output_format, response_format] {
            self.some_text(text.as_deref());
        }
        for number in [width, height, steps] {
            self.some(*number, |hash, number| hash.number(u64::from(number)));
        }
        self.number(u64::from(n.unwrap_or(1)));
        self.some(*seed, Self::number);
        self.some(*guidance_scale, Self::float);
        self.list(reference_images, |hash, url| hash.text(url));
        self.list(image_loras, |hash, Lora { path, scale, extra }| {
            hash.text(path);
            hash.float(*scale);
            hash.object(extra);
        });
        self.some(*disable_safety_checker, |hash, off| hash.tag(u8::from(off)));
        self.object(extra);
    }

    pub(super) fn rerank(&mut self, input: &RerankInput) {
        let RerankInput { query, documents, top_n, return_documents, rank_fields, extra } = input;
        self.tagged(5, query);
        self.list(documents, |hash, document| match document {
            Document::Text(text) => hash.tagged(0, text),
            Document::Fields(fields) => {
                hash.tag(1);
                hash.object(fields);
            }
        });
        self.some(*top_n, |hash, most| hash.number(u64::from(most)));
        self.some(*return_documents, |hash, whether| hash.tag(u8::from(whether)));
        self.list(rank_fields, |hash, name| hash.text(name));
        self.object(extra);
    }
}
